"""The store of tokenised comparisons: what is taken is what was said, built in parts, by few or many processes."""

import dataclasses
import json
import pathlib
import signal
import tracemalloc

import numpy as np
import pytest
from made_comparisons import SHARED, read, tldr

from jaxalign.data.comparisons import building, store, tokenised
from jaxalign.data.comparisons.asked import Field
from jaxalign.data.comparisons.labels import Choice
from jaxalign.data.comparisons.mixture import Mixture
from jaxalign.data.comparisons.pairs import Pairs
from jaxalign.data.comparisons.ranked import Ranked
from jaxalign.data.comparisons.source import Comparisons
from jaxalign.data.comparisons.store import Store, stored
from jaxalign.data.comparisons.tokenised import Encoder, Ids
from jaxalign.data.comparisons.votes import Votes
from jaxalign.data.groups import TrainingGroups
from jaxalign.data.tables.file import File
from jaxalign.data.tables.inline import Inline
from jaxalign.errors import DataError, Interrupted
from jaxalign.hosts import stop
from jaxalign.models.random_llama import RandomLlama
from jaxalign.progress import Unseen
from jaxalign.text.answers import located
from jaxalign.text.pairs import Encode, Room
from jaxalign.text.spans import spans

CHAT = RandomLlama().open().chat
ENCODE = Encode(CHAT, Room(512, 512))
ROWS = [
    {"prompt": f"Why {n // 3}?", "chosen": f"So {n}." + "!" * (n % 7), "rejected": "No." * (n % 4), "margin": n / 2}
    for n in range(50)
]


def source(rows: list[dict]) -> Pairs:
    return Pairs(Inline(tuple(map(json.dumps, rows))), margin_field="margin")


def unseen(total: int) -> Unseen:
    return Unseen()


def built(place: pathlib.Path, source: Comparisons, encode: Encoder = ENCODE, workers: int = 1) -> Store:
    return stored(place / "store", source, encode, "pairs", unseen, workers)


def everything(store: Store) -> list[tuple]:
    taken = store.take(np.arange(len(store)))
    return [
        (
            prompt[:length].tolist(),
            [answer[:size].tolist() for answer, size in zip(answers, sizes, strict=True)],
        )
        for prompt, length, answers, sizes in zip(
            taken.prompt, taken.prompt_lengths, taken.tokens, taken.lengths, strict=True
        )
    ]


def same(one: Store, other: Store) -> bool:
    columns = [(found.prompts, found.weight, found.different_prompts, found.fingerprint) for found in (one, other)]
    return everything(one) == everything(other) and all(np.array_equal(a, b) for a, b in zip(*columns, strict=True))


def test_what_is_taken_is_what_the_policy_would_have_said(tmp_path: pathlib.Path):
    store = built(tmp_path, source(ROWS))
    assert isinstance(store, TrainingGroups)
    assert (len(store), store.responses, store.different_prompts) == (50, 2, 17)
    for row, (prompt, answers) in zip(ROWS, everything(store), strict=True):
        asked = [{"role": "user", "content": row["prompt"]}]
        assert prompt == CHAT.encode(asked)
        for text, ids in zip((row["chosen"], row["rejected"]), answers, strict=True):
            assert CHAT.decode(ids) == text
            assert ids[-1] in CHAT.stop
            whole = spans(CHAT, [*asked, {"role": "assistant", "content": text}])
            assert [*prompt, *ids] == whole.ids[: len(prompt) + len(ids)].tolist()
    assert store.lengths.tolist() == [[len(ids) for ids in answers] for _, answers in everything(store)]
    assert store.prompt_lengths.tolist() == [len(prompt) for prompt, _ in everything(store)]
    assert store.prompts.tolist() == [store.prompts[3 * (n // 3)] for n in range(50)]
    assert [prompt.text for prompt in store.first(3)] == ["Why 0?", "Why 1?", "Why 2?"]


def test_groups_are_taken_in_any_order(tmp_path: pathlib.Path):
    store = built(tmp_path, source(ROWS))
    whole, numbers = everything(store), np.array([7, 3, 3, 49, 0])
    taken = store.take(numbers)
    for number, answers, sizes in zip(numbers, taken.tokens, taken.lengths, strict=True):
        assert [answer[:size].tolist() for answer, size in zip(answers, sizes, strict=True)] == whole[number][1]
    assert not taken.tokens[np.arange(taken.tokens.shape[2]) >= taken.lengths[..., None]].any()
    assert store.take(np.zeros(0, np.int64)).tokens.shape[:2] == (0, 2)


def test_prompts_are_kept_once(tmp_path: pathlib.Path):
    import grain

    built(tmp_path, source(ROWS))
    records = grain.sources.ArrayRecordDataSource(str(tmp_path / "store" / "prompts-00000.array_record"))
    assert len(records) == 17


def test_many_processes_and_many_parts_make_the_same_store(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    alone = built(tmp_path / "alone", source(ROWS))
    monkeypatch.setattr(building, "PART", 8)
    assert same(built(tmp_path / "parts", source(ROWS)), alone)
    monkeypatch.setattr(tokenised, "ALONE", 0)
    monkeypatch.setattr(tokenised, "BLOCK", 4)
    assert same(built(tmp_path / "processes", source(ROWS), workers=2), alone)


@pytest.mark.slow
def test_what_is_known_of_groups_lies_on_the_disk(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    """A store of forty thousand pairs takes a megabyte of columns of them; opened and compared, not a third of that."""
    monkeypatch.setattr(store, "AT_ONCE", 1 << 10)
    count, ids = 40_000, np.arange(3, dtype=np.int32)
    pairs = [{"prompt": f"Why {n}?", "chosen": "So.", "rejected": "No.", "margin": 1.0} for n in range(count)]

    def encode(block):
        return [Ids(ids, (ids[:1], ids[:2])) for _ in block]

    few, many = (built(tmp_path / str(size), source(pairs[:size]), encode) for size in (100, count))
    tracemalloc.start()
    opened = Store(many.directory, "pairs")
    assert few.prompts_in(opened) == 100
    known = (opened.prompts, opened.prompt_lengths, opened.lengths, opened.weight)
    assert [len(column) for column in known] == [count] * 4
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * count
    assert opened.different_prompts == count


def test_prompts_of_one_store_are_found_in_another(tmp_path: pathlib.Path):
    one, other = built(tmp_path / "one", source(ROWS[:30])), built(tmp_path / "other", source(ROWS[26:]))
    assert (one.different_prompts, other.different_prompts) == (10, 9)
    assert one.prompts_in(other) == other.prompts_in(one) == 2
    assert built(tmp_path / "last", source(ROWS[45:])).prompts_in(one) == 0


@dataclasses.dataclass(frozen=True)
class Breaking:
    """An encoder that is interrupted at its nth block."""

    after: int
    seen: list

    def __call__(self, block):
        self.seen.append([each.answers[0] for each in block])
        if len(self.seen) > self.after:
            raise KeyboardInterrupt
        return ENCODE(block)


def test_an_interrupted_build_goes_on_where_it_stopped(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(building, "PART", 8)
    monkeypatch.setattr(tokenised, "BLOCK", 4)
    with pytest.raises(KeyboardInterrupt):
        built(tmp_path, source(ROWS), Breaking(5, []))
    assert not (tmp_path / "store" / building.INFO).exists()
    second = Breaking(100, [])
    resumed = built(tmp_path, source(ROWS), second)
    assert second.seen[0][0] == ROWS[16]["chosen"], "two parts of eight were committed"
    assert same(resumed, built(tmp_path / "whole", source(ROWS)))
    third = Breaking(0, [])
    assert same(built(tmp_path, source(ROWS), third), resumed)
    assert third.seen == [], "what is there is not made again"


def test_a_build_that_is_asked_to_stop_stops(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(building, "PART", 8)
    monkeypatch.setattr(tokenised, "BLOCK", 4)

    def asked(block):
        if block[0].answers[0] == ROWS[20]["chosen"]:
            signal.raise_signal(signal.SIGINT)
        return ENCODE(block)

    with stop.stop_on_signal(), pytest.raises(Interrupted, match="stopped after 16 comparisons"):
        built(tmp_path, source(ROWS), asked)
    assert same(built(tmp_path, source(ROWS)), built(tmp_path / "whole", source(ROWS)))


def test_bad_rows_are_found_before_anything_is_made(tmp_path: pathlib.Path):
    encode = Breaking(0, [])
    with pytest.raises(DataError, match="1 bad rows of 51\ninline rows:51:chosen: number"):
        built(tmp_path, source([*ROWS, {**ROWS[0], "chosen": 3}]), encode)
    assert encode.seen == []


LONG = {"prompt": "Why " * 9, "chosen": "So. " * 9, "rejected": "No."}
SHORT = {"prompt": "W?", "chosen": "So.", "rejected": "No."}


def test_what_is_too_long_is_dropped_or_cut_and_counted(tmp_path: pathlib.Path):
    rows = source([SHORT, LONG, SHORT])
    whole = everything(built(tmp_path / "whole", rows))
    prompt, answer = len(whole[1][0]), len(whole[1][1][0])
    dropped = built(tmp_path / "prompts", rows, Encode(CHAT, Room(prompt - 1, answer)))
    assert dropped.left_out == {f"a prompt of more than {prompt - 1} tokens": 1}
    assert everything(dropped) == [whole[0], whole[2]]
    dropped = built(tmp_path / "answers", rows, Encode(CHAT, Room(prompt, answer - 1)))
    assert dropped.left_out == {f"an answer of more than {answer - 1} tokens": 1}
    cut = built(tmp_path / "cut", rows, Encode(CHAT, Room(prompt - 2, answer - 3, "keep_end", "keep_start")))
    assert (cut.left_out, cut.cut) == ({}, {"prompt": 1, "answer": 1})
    assert everything(cut) == [whole[0], (whole[1][0][2:], [whole[1][1][0][:-3], whole[1][1][1]]), whole[2]]
    with pytest.raises(DataError, match="pairs: nothing to train on; 3 left out, 3 with a prompt of more than 1"):
        built(tmp_path / "none", rows, Encode(CHAT, Room(1, 1)))
    assert list(Room(0, 1).problems()) == ["prompt must be at least 1, got 0"]


def test_rows_without_a_scored_token_are_counted(tmp_path: pathlib.Path):
    chat = dataclasses.replace(CHAT, stop=())
    rows = source([SHORT, {**SHORT, "rejected": ""}, {**SHORT, "rejected": "So."}])
    store = built(tmp_path, rows, Encode(chat, Room(99, 99)))
    assert len(store) == 1
    assert store.left_out == {"an answer without a token to score": 1, "twice the same answer": 1}


def test_conversations_that_the_template_refuses_are_counted(tmp_path: pathlib.Path):
    """A template of two turns meets one of four."""
    strict = "{% if messages | length > 2 %}{{ raise_exception('too many') }}{% endif %}" + CHAT.template
    turns = [
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "I."},
        {"role": "user", "content": "?"},
    ]
    rows = source([SHORT, {**SHORT, "prompt": turns}])
    store = built(tmp_path, rows, Encode(dataclasses.replace(CHAT, template=strict), Room(99, 99)))
    assert (len(store), store.left_out) == (1, {"a conversation that the chat template refuses": 1})


def test_labels_of_every_kind(tmp_path: pathlib.Path):
    answers = {"prompt": "Why?", "response1": "a", "response2": "b"}
    rows = [{**answers, "x": 2, "y": 0}, {**answers, "x": 1}, {**answers, "x": 1, "y": 2}]
    votes = Votes(Inline(tuple(map(json.dumps, rows))), (Choice("x", tie=0), Choice("y", tie=0)))
    labels = built(tmp_path / "votes", votes).take(np.arange(3)).labels
    assert labels.prefer.tolist() == [0.75, 1.0, 0.5]
    assert labels.votes.tolist() == [[1.0, 0.5], [1.0, 0.5], [1.0, 0.0]]
    assert labels.decided.tolist() == [[1, 0], [1, 0], [1, 1]]
    assert labels.score is None
    assert labels.margin is None
    assert built(tmp_path / "all", source(ROWS)).take(np.array([3, 8])).labels.margin.tolist() == [1.5, 4.0]
    some = source([*ROWS, {**ROWS[0], "margin": None}])
    assert built(tmp_path / "some", some).take(np.array([3])).labels.margin is None
    rated = {"prompt": "Why?", "answers": ["a", "b", "c"], "ratings": [1, 3, 2]}
    ranked = built(tmp_path / "ranked", Ranked(Inline((json.dumps(rated),)), rating_field="ratings"))
    assert ranked.take(np.arange(3)).labels.score.tolist() == [[3, 2], [3, 1], [2, 1]]
    assert ranked.weight.tolist() == pytest.approx([1 / 3] * 3)


def test_sources_of_other_votes_do_not_mix(tmp_path: pathlib.Path):
    votes = Votes(
        Inline(('{"q": "?", "response1": "a", "response2": "b", "x": 1}',)), (Choice("x"), Choice("y")), Field("q")
    )
    with pytest.raises(DataError, match="2 answers and 2 votes, where others have 2 and 1"):
        built(tmp_path, Mixture((source(ROWS), votes)))


@pytest.mark.parametrize(
    ("shares", "counts"), [((), (6, 2)), ((1.0, 1.0), (6, 6)), ((1.0, 3.0), (6, 18)), ((9.0, 1.0), (18, 2))]
)
def test_an_epoch_of_a_mixture_has_its_shares(shares: tuple, counts: tuple, tmp_path: pathlib.Path):
    mixture = Mixture((source(ROWS[:6]), source(ROWS[20:22])), shares)
    store, texts = built(tmp_path, mixture), [one.answers[0] for one in read(mixture)]
    found = [CHAT.decode(answers[0]) for _, answers in everything(store)]
    times = [found.count(text) for text in texts]
    assert (sum(times[:6]), sum(times[6:])) == counts
    assert max(times[:6]) - min(times[:6]) <= 1
    assert max(times[6:]) - min(times[6:]) <= 1
    assert len(store) == len(store.lengths) == len(store.prompts) == len(store.weight) == sum(counts)


def test_the_fingerprint_is_of_what_is_said(tmp_path: pathlib.Path):
    paths = [tmp_path / name for name in ("a.jsonl", "b.json")]
    paths[0].write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    paths[1].write_text(json.dumps(ROWS))
    stores = [built(tmp_path / path.name[0], Pairs(File(str(path)), margin_field="margin")) for path in paths]
    stores.append(built(tmp_path / "c", source([*ROWS[:-1], {**ROWS[-1], "margin": 0}])))
    assert stores[0].fingerprint == stores[1].fingerprint != stores[2].fingerprint


def test_a_damaged_store_is_named(tmp_path: pathlib.Path):
    store = built(tmp_path, source(ROWS))
    path = store.directory / "answers-00000.array_record"
    content = bytearray(path.read_bytes())
    content[200] ^= 255
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"store: cannot be read: .*\nIt is a converted copy"):
        everything(store)
    (store.directory / "votes.npy").write_bytes(b"")
    with pytest.raises(DataError, match=r"votes.npy: cannot be read"):
        Store(store.directory, "pairs")


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the public data sets are not in {SHARED}")
def test_real_pairs(tmp_path: pathlib.Path):
    some = dataclasses.replace(tldr(), table=dataclasses.replace(tldr().table, limit=200))
    store = built(tmp_path, some, Encode(CHAT, Room(4096, 4096)))
    found = read(some)
    assert len(store) == 200
    for one, (_, answers) in zip(found, everything(store), strict=True):
        assert [CHAT.decode(ids) for ids in answers] == list(one.answers)
        assert located(CHAT, one.prompt, one.answers[0]).tolist() == answers[0]
    assert store.take(np.arange(200)).labels.prefer == pytest.approx([one.prefer for one in found])
