"""Prompt sources, their order and its state: relations first, then every kind of bad input."""

import dataclasses
import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import hypothesis
import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import strategies as st

from jaxalign import data, jsonl, tfds_store
from jaxalign.data import BuiltinPrompts, GroupOrder, InlinePrompts, JsonlPrompts, PromptStream, TfdsPrompts
from jaxalign.errors import DataError
from jaxalign.models.random_llama import RandomLlama
from jaxalign.rollout import Sample
from jaxalign.sharding import MeshShape
from jaxalign.types import Prompt


def inline(count: int) -> data.PromptSet:
    return InlinePrompts(tuple(f"Question {number}?" for number in range(count))).open(pathlib.Path("unused"))


def written(folder: pathlib.Path, *lines: str | bytes, name: str = "rows.jsonl") -> pathlib.Path:
    path = folder / name
    path.write_bytes(b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines))
    return path


def opened(path: pathlib.Path, **options: object) -> data.PromptSet:
    return JsonlPrompts(str(path), **options).open(path.parent / "cache")


def refusal(path: pathlib.Path, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        opened(path, **options)
    cache = path.parent / "cache"
    assert not cache.exists() or list(cache.iterdir()) == [], "nothing may be left of a refused file"
    return str(caught.value)


def contents(prompts: data.PromptSet) -> list[Prompt]:
    return [prompts[index] for index in range(len(prompts))]


# --------------------------------------------------------------------------------------------------------------
# Sources


TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1).filter(str.strip)
CONVERSATION = st.lists(st.tuples(st.sampled_from(jsonl.ROLES), TEXT), max_size=3)


@hypothesis.settings(deadline=None, max_examples=12)
@hypothesis.given(rows=st.lists(st.tuples(CONVERSATION, TEXT), min_size=1, max_size=6), escape=st.booleans())
def test_what_is_written_is_what_is_read(tmp_path_factory: pytest.TempPathFactory, rows, escape: bool):
    """JSONL → ArrayRecord → Prompt keeps every character, escaped or not, U+2028 included."""
    folder = tmp_path_factory.mktemp("rows")
    conversations = [[*before, ("user", last)] for before, last in rows]
    lines = [{"messages": [{"role": role, "content": text} for role, text in turns]} for turns in conversations]
    prompts = opened(written(folder, *(json.dumps(line, ensure_ascii=escape) for line in lines)))
    assert [prompt.messages for prompt in contents(prompts)] == [tuple(line["messages"]) for line in lines]
    assert [prompt.text for prompt in contents(prompts)] == [last for _, last in rows]


def test_a_prompt_is_a_conversation_of_one(tmp_path: pathlib.Path):
    one = opened(written(tmp_path, '{"id": "a", "prompt": "Why?"}', name="one.jsonl"))
    two = opened(written(tmp_path, '{"id": "a", "messages": [{"role": "user", "content": "Why?"}]}', name="two.jsonl"))
    assert one[0] == two[0] == Prompt("a", ({"role": "user", "content": "Why?"},))
    assert one.fingerprint == two.fingerprint


def test_tools_travel_to_the_template(tmp_path: pathlib.Path):
    tools = [{"type": "function", "function": {"name": "search", "parameters": {"q": {"type": "string"}}}}]
    rows = ({"id": "a", "prompt": "Why?", "tools": tools}, {"id": "b", "prompt": "Why?", "tools": []})
    prompts = opened(written(tmp_path, *map(json.dumps, rows)))
    assert [prompt.tool_list for prompt in contents(prompts)] == [tools, None]
    template = "{{ messages[0].content }}{% if tools %}{{ tools[0].function.name }}{% endif %}"
    model = RandomLlama().open()
    model = dataclasses.replace(model, chat=dataclasses.replace(model.chat, template=template))
    roller = Sample(samples=1, max_tokens=1).on(model, MeshShape(data=1, fsdp=1).build(jax.devices()[:1]))
    asked = roller(model.load(), tuple(contents(prompts)), jax.random.key(0))
    rows = zip(asked.prompt_tokens.tolist(), asked.prompt_lengths, strict=True)
    assert [model.chat.decode(row[:length]) for row, length in rows] == ["Why?search", "Why?"]


@pytest.mark.parametrize(("tools", "names"), [('{"a": 1}', "tools: object"), ("[3]", r"tools\[0\]: number")])
def test_tools_that_are_none_are_named(tmp_path: pathlib.Path, tools: str, names: str):
    with pytest.raises(DataError, match=names):
        opened(written(tmp_path, f'{{"prompt": "Why?", "tools": {tools}}}'))


def test_the_plain_file_and_its_tfds_copy_are_one_dataset(tmp_path: pathlib.Path):
    """What the cache holds is a TFDS dataset like any other: TFDS itself opens it."""
    opened(written(tmp_path, '{"id": "a", "prompt": "Why?"}', '{"id": "b", "prompt": "How?"}'))
    (directory,) = (tmp_path / "cache").iterdir()
    source = tfds.builder_from_directory(directory).as_data_source(tfds_store.SPLIT)
    assert [record["id"] for record in source] == [b"a", b"b"]
    assert any("array_record" in file.name for file in directory.iterdir())


def test_limit_keeps_the_first_and_shares_the_copy(tmp_path: pathlib.Path):
    path = written(tmp_path, *(json.dumps({"prompt": f"Question {number}?"}) for number in range(9)))
    assert contents(opened(path, limit=4)) == contents(opened(path))[:4]
    assert len(opened(path, limit=99)) == 9
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert opened(path, limit=4).fingerprint != opened(path).fingerprint


def test_fingerprint_sees_ids_contents_and_order(tmp_path: pathlib.Path):
    base = [{"id": "a", "prompt": "Why?"}, {"id": "b", "prompt": "How?"}]
    variants = [
        base,
        base[::-1],
        [{"id": "a", "prompt": "Why!"}, base[1]],
        [{"id": "c", "prompt": "Why?"}, base[1]],
        base[:1],
        [{"id": "a", "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]}],
    ]
    prints = {opened(written(tmp_path, *map(json.dumps, rows))).fingerprint for rows in variants}
    assert len(prints) == len(variants)
    assert opened(written(tmp_path, *map(json.dumps, base))).fingerprint in prints, "it depends on nothing else"


def test_a_changed_file_gets_a_copy_of_its_own(tmp_path: pathlib.Path):
    path = written(tmp_path, '{"prompt": "old"}')
    stamp = path.stat()
    assert opened(path)[0].text == "old"
    written(tmp_path, '{"prompt": "new"}')
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # same name, size and times
    assert opened(path)[0].text == "new"
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_ids(tmp_path: pathlib.Path):
    path = written(tmp_path, '{"prompt": "a"}', '{"prompt": "b", "id": 7}', '{"prompt": "c", "id": "x"}')
    assert [prompt.id for prompt in contents(opened(path))] == ["rows.jsonl:1", "7", "x"]


def test_fields_can_be_renamed_and_switched_off(tmp_path: pathlib.Path):
    path = written(
        tmp_path, '{"question": "Why?", "prompt": 3, "extra": [1, {"a": null}], "messages": [{"no": "role"}]}'
    )
    assert opened(path, text_field="question", messages_field="")[0].text == "Why?"
    assert "rows.jsonl:1:messages: stands beside 'question'" in refusal_of_new(path, text_field="question")


def refusal_of_new(path: pathlib.Path, **options: object) -> str:
    """The refusal under options that have no copy yet, beside one that other options left."""
    with pytest.raises(DataError) as caught:
        opened(path, **options)
    return str(caught.value)


def test_line_ends(tmp_path: pathlib.Path):
    """LF ends a line, CR before it is white space, and the separators that str.splitlines knows are text."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"prompt": "a\u2028b\u0085c"}\r\n{"prompt": "last, without an end"}'.encode())
    assert [prompt.text for prompt in contents(opened(path))] == ["a\u2028b\u0085c", "last, without an end"]


def test_no_network_and_no_tensorflow(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert len(BuiltinPrompts("heldout").open(tmp_path)) >= 110
    assert "tensorflow" not in sys.modules


def test_sources_say_what_is_wrong_with_their_settings():
    assert list(JsonlPrompts("x", limit=0, max_line_bytes=0, text_field="", messages_field="").problems()) == [
        "limit must be at least 1, or None for all prompts, got 0",
        "max_line_bytes must be at least 1, got 0",
        "text_field and messages_field are both empty",
    ]
    for source in (JsonlPrompts("x"), BuiltinPrompts(), TfdsPrompts("x", limit=1), InlinePrompts(("a",))):
        assert isinstance(source, data.PromptSource)
        assert hash(source) == hash(dataclasses.replace(source))
    assert list(BuiltinPrompts(limit=-1).problems())
    assert list(TfdsPrompts("x", limit=-1).problems())


def test_inline_prompts():
    prompts = inline(3)
    assert [prompt.id for prompt in contents(prompts)] == ["inline-0", "inline-1", "inline-2"]
    with pytest.raises(IndexError):
        prompts[3]
    with pytest.raises(IndexError):
        prompts[-1]
    with pytest.raises(DataError, match=r"texts\[1\]: blank"):
        InlinePrompts(("a", " ")).open(pathlib.Path("unused"))
    with pytest.raises(DataError, match="no prompts"):
        InlinePrompts(()).open(pathlib.Path("unused"))


# --------------------------------------------------------------------------------------------------------------
# Conversion


def test_the_second_of_two_writers_keeps_the_first_copy(tmp_path: pathlib.Path):
    directory = tmp_path / "cache" / "prompts-x"

    def slow_rows():
        yield Prompt("a", ({"role": "user", "content": "Why?"},))
        tfds_store.write([Prompt("b", ({"role": "user", "content": "How?"},))], directory)  # another, meanwhile

    tfds_store.write(slow_rows(), directory)
    assert [tfds_store.read_prompt(row).id for row in tfds_store.records(directory, tfds_store.SPLIT, "id")] == ["b"]
    assert list((tmp_path / "cache").iterdir()) == [directory], "nothing incomplete is left"


def test_processes_converting_at_once_all_end_well(tmp_path: pathlib.Path):
    program = (
        "import pathlib, sys, time\n"
        "from jaxalign.data import BuiltinPrompts\n"
        "import tensorflow_datasets\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "(folder / f'ready-{sys.argv[2]}').touch()\n"
        "while len(list(folder.glob('ready-*'))) < 2: time.sleep(0.001)\n"
        "print(BuiltinPrompts().open(folder / 'cache').fingerprint)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    processes = [subprocess.Popen([*command, str(number)], stdout=subprocess.PIPE, text=True) for number in range(2)]
    outputs = [process.communicate(timeout=120)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert outputs == [BuiltinPrompts().open(tmp_path / "cache").fingerprint] * 2
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_disk_that_refuses_is_reported(tmp_path: pathlib.Path):
    path = written(tmp_path, '{"prompt": "Why?"}')
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(DataError, match=r"cache/prompts-.*cannot be stored"):
        opened(path)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "gone", "no info"])
def test_a_damaged_copy_is_reported_and_named(tmp_path: pathlib.Path, damage: str):
    path = written(tmp_path, *(json.dumps({"prompt": f"Question number {number}?"}) for number in range(30)))
    opened(path)
    (directory,) = (tmp_path / "cache").iterdir()
    (shard,) = directory.glob("*array_record*")
    content = shard.read_bytes()
    if damage == "truncated":
        shard.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        place = len(content) // 2
        shard.write_bytes(content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :])
    elif damage == "gone":
        shard.unlink()
    else:
        (directory / "dataset_info.json").unlink()
    with pytest.raises(DataError) as caught:
        opened(path)
    assert str(directory) in str(caught.value)
    assert "delete it" in str(caught.value)


# --------------------------------------------------------------------------------------------------------------
# TFDS datasets


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A dataset of two splits that TFDS's own builder wrote."""
    folder = tmp_path_factory.mktemp("tfds")
    features = tfds.features.FeaturesDict(
        {"question": tfds.features.Text(), "spare": tfds.features.Text(), "stars": np.int32}
    )
    identity = tfds.core.dataset_info.DatasetIdentity(
        name="quiz", version=tfds.core.Version("1.0.0"), data_dir=str(folder), module_name="quiz"
    )
    writer = tfds.core.SequentialWriter(
        tfds.core.DatasetInfo(builder=identity, features=features), max_examples_per_shard=8, file_format="array_record"
    )
    rows = [
        {"question": f"Wozu {number}? ß", "spare": "" if number == 3 else "x", "stars": number} for number in range(20)
    ]
    writer.initialize_splits(["train", "test"])
    writer.add_examples({"train": rows, "test": rows[:5]})
    writer.close_all()
    return str(folder)


def test_any_tfds_dataset_can_be_read(dataset: str, tmp_path: pathlib.Path):
    prompts = TfdsPrompts(dataset, text_field="question").open(tmp_path)
    assert [prompt.text for prompt in contents(prompts)] == [f"Wozu {number}? ß" for number in range(20)]
    assert prompts[4].id == "train:4"
    assert len(TfdsPrompts(dataset, "test", "question").open(tmp_path)) == 5
    part = TfdsPrompts(dataset, "train[50%:]", "question", limit=3).open(tmp_path)
    assert [prompt.text for prompt in contents(part)] == [prompts[index].text for index in (10, 11, 12)]
    assert list(tmp_path.iterdir()) == [], "it is read where it is"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_field": "prompt"}, r"prompt: no such text feature among \['question', 'spare'\]"),
        ({"text_field": "stars"}, "stars: no such text feature"),
        ({"text_field": "spare"}, "split 'train': record 3:spare: empty"),
        ({"text_field": "question", "split": "dev"}, "split 'dev' cannot be opened"),
    ],
)
def test_what_a_tfds_dataset_lacks_is_named(dataset: str, tmp_path: pathlib.Path, options: dict, message: str):
    with pytest.raises(DataError, match=message) as caught:
        TfdsPrompts(dataset, **options).open(tmp_path)
    assert dataset in str(caught.value)


def test_a_folder_that_is_no_dataset(tmp_path: pathlib.Path):
    for directory in (tmp_path, tmp_path / "missing"):
        with pytest.raises(DataError, match=f"{directory}: no TFDS dataset"):
            TfdsPrompts(str(directory)).open(tmp_path)


# --------------------------------------------------------------------------------------------------------------
# Order


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_every_epoch_has_every_prompt_once_in_an_order_of_its_own(count: int):
    stream = PromptStream(inline(count), seed=3)
    epochs = [[prompt.id for prompt in stream.take(epoch * count, count)] for epoch in range(4)]
    assert all(sorted(epoch) == sorted(epochs[0]) and len(set(epoch)) == count for epoch in epochs)
    if count > 7:
        assert len({tuple(epoch) for epoch in epochs}) == 4


def test_the_order_is_a_function_of_seed_and_index():
    one, two, other = (PromptStream(inline(20), seed=seed) for seed in (5, 5, 6))
    assert [one[index] for index in (33, 2, 19, 2)] == [two.take(index, 1)[0] for index in (33, 2, 19, 2)]
    assert one.take(0, 20) != other.take(0, 20)
    assert one.take(7, 10) == tuple(one.take(0, 20)[7:17])
    with pytest.raises(IndexError):
        one[-1]


def test_neighbouring_seeds_share_no_epoch():
    """Grain adds the epoch to the seed; it hashes the seed first, without which seeds 0 and 1 would share orders."""
    streams = [PromptStream(inline(30), seed) for seed in range(4)]
    orders = {tuple(p.id for p in stream.take(30 * epoch, 30)) for stream in streams for epoch in range(4)}
    assert len(orders) == 16


@pytest.mark.parametrize(
    "order",
    [PromptStream(inline(20), seed=1), GroupOrder(count=38, size=5, epochs=3, seed=1)],
    ids=["prompts", "groups"],
)
def test_iteration_resumes_exactly_at_every_cut_of_24(order: data.Order):
    """Across epochs too (of 20 prompts and of 8 batches), through JSON, and equal to random access."""
    whole = [next_of(order[index]) for index in range(24)]
    iterator = order.iterator()
    for cut in range(24):
        state = iterator.get_state()
        assert state == order.state(cut)
        assert order.check(state) == cut
        resumed = order.iterator(json.loads(json.dumps(state)))
        assert [next_of(next(resumed)) for _ in range(24 - cut)] == whole[cut:]
        assert next_of(next(iterator)) == whole[cut]


def next_of(element: Prompt | np.ndarray) -> object:
    return element if isinstance(element, Prompt) else element.tolist()


def test_a_position_in_another_order_is_refused_naming_the_field(tmp_path: pathlib.Path):
    state = PromptStream(inline(10), seed=1).iterator().get_state()
    renamed = InlinePrompts(tuple(f"Question {number}!" for number in range(10))).open(tmp_path)
    for stream, field in (
        (PromptStream(inline(10), seed=2), "seed: 1 when saved, 2 in this run"),
        (PromptStream(renamed, seed=1), f"fingerprint: '{state['fingerprint']}' when saved"),
        (PromptStream(inline(11), seed=1), "fingerprint"),
    ):
        with pytest.raises(DataError, match=field):
            stream.iterator(state)
    groups = {"count": 15, "size": 4, "epochs": 6, "seed": 1}
    for field in groups:
        with pytest.raises(DataError, match=f": {field}: {groups[field]} when saved, {groups[field] + 1} in this run"):
            GroupOrder(**{**groups, field: groups[field] + 1}).check(GroupOrder(**groups).state(3))


@pytest.mark.parametrize("next_index", [-1, 25, True, 1.0, "1", None])
def test_a_spoilt_position_is_refused(next_index: object):
    order = GroupOrder(count=15, size=4, epochs=6, seed=1)
    with pytest.raises(DataError, match="next_index"):
        order.iterator({**order.state(0), "next_index": next_index})
    with pytest.raises(DataError, match="epochs, stray: missing or unknown"):
        order.check({"stray": 1, **{name: value for name, value in order.state(0).items() if name != "epochs"}})


@hypothesis.settings(deadline=None, max_examples=15)
@hypothesis.given(
    count=st.integers(1, 60), size=st.integers(1, 9), epochs=st.integers(1, 3), seed=st.integers(0, 2**40)
)
def test_every_group_is_in_every_epoch_once(count: int, size: int, epochs: int, seed: int):
    order = GroupOrder(count, size, epochs, seed)
    batches = np.array([order[k] for k in range(len(order))])
    assert batches.shape == (epochs * -(-count // size), size)
    for epoch in batches.reshape(epochs, -1):
        assert sorted(epoch[epoch >= 0].tolist()) == list(range(count))
        assert (epoch[count:] == -1).all(), "padding is at the end of the epoch and nowhere else"


def test_group_order_ends():
    order = GroupOrder(count=3, size=2, epochs=2, seed=0)
    assert [batch.tolist() for batch in order.iterator()] == [order[k].tolist() for k in range(4)]
    assert list(order.iterator(order.state(4))) == []
    with pytest.raises(IndexError):
        order[4]
    with pytest.raises(DataError, match="no groups"):
        GroupOrder(count=0, size=2, epochs=1, seed=0)


# --------------------------------------------------------------------------------------------------------------
# Bad rows


GOOD = '{"prompt": "Why?"}'
BAD_LINES = {
    "broken": ('{"prompt": "Why?"', "2: not JSON: Expecting ',' delimiter"),
    "two values": ('{"prompt": "a"} {"prompt": "b"}', "2: not JSON: Extra data"),
    "single quotes": ("{'prompt': 'a'}", "2: not JSON: Expecting property name"),
    "control character": ('{"prompt": "a\tb"}', "2: not JSON: Invalid control character"),
    "blank line": ("  ", "2: blank line"),
    "array": ('["Why?"]', "2: array where an object belongs"),
    "string": ('"Why?"', "2: string where an object belongs"),
    "number": ("3", "2: number where an object belongs"),
    "null": ("null", "2: null where an object belongs"),
    "top NaN": ("NaN", "2: number where an object belongs"),
    "NaN": ('{"prompt": "a", "score": NaN}', "2:score: NaN is not a finite number"),
    "infinity": ('{"prompt": "a", "more": {"list": [1, -Infinity]}}', "2:more.list[1]: -Infinity is not"),
    "overflow": ('{"prompt": "a", "score": 1e999}', "2:score: 1e999 is not a finite number"),
    "huge integer": ('{"prompt": "a", "n": ' + "9" * 9999 + "}", "2: an integer of too many digits"),
    "duplicate key": ('{"prompt": "a", "prompt": "b"}', "2:prompt: appears twice"),
    "inner duplicate": ('{"prompt": "a", "meta": {"k": 1, "k": 1}}', "2:k: appears twice"),
    "missing": ('{"text": "a"}', "2:prompt: missing or null; a row needs 'prompt' or 'messages'"),
    "null prompt": ('{"prompt": null}', "2:prompt: missing or null"),
    "empty": ('{"prompt": ""}', "2:prompt: empty"),
    "blank": ('{"prompt": " \\n\\u2003"}', "2:prompt: blank"),
    "number prompt": ('{"prompt": 5}', "2:prompt: number where a string belongs"),
    "boolean prompt": ('{"prompt": true}', "2:prompt: boolean where a string belongs"),
    "list prompt": ('{"prompt": ["a"]}', "2:prompt: array where a string belongs"),
    "surrogate": ('{"prompt": "a\\ud800b"}', "2:prompt: lone surrogate at character 2"),
    "NUL": ('{"prompt": "a\\u0000"}', "2:prompt: NUL character at 2"),
    "not UTF-8": (b'{"prompt": "caf\xe9"}', "2: not UTF-8: byte 0xe9 in column 16"),
    "encoded surrogate": (b'{"prompt": "\xed\xa0\x80"}', "2: not UTF-8: byte 0xed"),
    "too deep": ('{"prompt": "a", "x": ' + "[" * 100_000 + "]" * 100_000 + "}", "2: nested too deeply"),
    "byte order mark": ('\ufeff{"prompt": "a"}', "2: begins with a byte order mark"),
    "both": ('{"prompt": "a", "messages": []}', "2:messages: stands beside 'prompt'"),
    "messages no list": ('{"messages": "hi"}', "2:messages: string where an array belongs"),
    "messages empty": ('{"messages": []}', "2:messages: empty"),
    "message no object": ('{"messages": ["hi"]}', "2:messages[0]: string where an object belongs"),
    "no role": ('{"messages": [{"content": "hi"}]}', "2:messages[0].role: missing"),
    "no content": ('{"messages": [{"role": "user"}]}', "2:messages[0].content: missing"),
    "blank content": ('{"messages": [{"role": "user", "content": " "}]}', "2:messages[0].content: blank"),
    "null content": ('{"messages": [{"role": "user", "content": null}]}', "2:messages[0].content: null where"),
    "odd role": ('{"messages": [{"role": "tool", "content": "hi"}]}', "2:messages[0].role: 'tool' is none of system"),
    "assistant last": (
        '{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}',
        "2:messages[1].role: the last message is the assistant's",
    ),
    "blank id": ('{"id": "", "prompt": "a"}', "2:id: empty"),
    "boolean id": ('{"id": true, "prompt": "a"}', "2:id: boolean where a string belongs"),
    "surrogate id": ('{"id": "\\udc00", "prompt": "a"}', "2:id: lone surrogate"),
    "duplicate id": ('{"id": "rows.jsonl:1", "prompt": "a"}', "2:id: 'rows.jsonl:1' is the id of line 1 too"),
    "odd key": ('{"prompt": "a", "\\ud800\\n": 1, "\\ud800\\n": 1}', r"2:'\ud800\n': appears twice"),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_row_is_named_by_line_and_field(case: str, tmp_path: pathlib.Path):
    line, expected = BAD_LINES[case]
    message = refusal(written(tmp_path, GOOD, line, GOOD))
    assert f"{tmp_path}/rows.jsonl:{expected}" in message
    assert f"{tmp_path}/rows.jsonl: 1 bad rows of 3" in message
    assert len(message) < 600
    message.encode()  # it can be printed


def test_the_byte_order_mark_that_editors_write(tmp_path: pathlib.Path):
    path = tmp_path / "rows.jsonl"
    path.write_text(GOOD, encoding="utf-8-sig")
    assert "rows.jsonl:1: begins with a byte order mark" in refusal(path)
    path.write_text(GOOD, encoding="utf-16")
    assert "rows.jsonl:1: not UTF-8" in refusal(path)


def test_all_bad_rows_are_reported_up_to_twenty(tmp_path: pathlib.Path):
    message = refusal(written(tmp_path, GOOD, *['{"prompt": ""}'] * 20, GOOD))
    assert [line.split(":")[1] for line in message.splitlines()[1:]] == [str(number) for number in range(2, 22)]
    message = refusal(written(tmp_path, *['{"prompt": ""}', "{"] * 15))
    assert len(message.splitlines()) == 22
    assert message.endswith("… and 10 more bad rows")
    assert "30 bad rows of 30" in message


def test_duplicate_ids_name_both_lines(tmp_path: pathlib.Path):
    message = refusal(written(tmp_path, '{"id": 4, "prompt": "a"}', GOOD, '{"id": "4", "prompt": "b"}'))
    assert "rows.jsonl:3:id: '4' is the id of line 1 too" in message


def test_over_long_lines_are_skipped_without_being_held(tmp_path: pathlib.Path):
    path = written(tmp_path, GOOD, '{"prompt": "' + "x" * 100 + '"}', GOOD, "x" * 500, GOOD)
    message = refusal(path, max_line_bytes=64)
    assert "rows.jsonl:2: line longer than 64 bytes" in message
    assert "rows.jsonl:4: line longer than 64 bytes" in message
    assert "2 bad rows of 5" in message
    exact = written(tmp_path, '{"prompt": "abc"}', '{"prompt": "abcd"}', name="exact.jsonl")
    assert "1 bad rows of 2" in refusal(exact, max_line_bytes=17)
    assert len(opened(exact, max_line_bytes=18)) == 2


class Counted:
    """A binary file that remembers the longest piece anyone asked for."""

    def __init__(self, file):
        self.file, self.longest = file, 0

    def __enter__(self):
        return self

    def __exit__(self, *_: object):
        self.file.close()

    def readline(self, size: int) -> bytes:
        line = self.file.readline(size)
        self.longest = max(self.longest, len(line))
        return line


def test_a_line_of_64_mb_costs_neither_memory_nor_time(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "rows.jsonl"
    with path.open("wb") as file:
        file.write(b'{"prompt": "')
        file.truncate(64 << 20)
    counted = Counted(path.open("rb"))
    monkeypatch.setattr(pathlib.Path, "open", lambda *_: counted)
    began = time.process_time()
    with pytest.raises(DataError, match=r"rows.jsonl:1: line longer than 1048576 bytes"):
        list(jsonl.read(path, 1 << 20, lambda _, row: row))
    assert counted.longest <= (1 << 20) + 1
    assert time.process_time() - began < 2  # 64 MB from memory take some 0.05 s


def test_empty_missing_and_irregular_files(tmp_path: pathlib.Path):
    assert "rows.jsonl: empty file" in refusal(written(tmp_path))
    assert "gone.jsonl: no such file" in refusal(tmp_path / "gone.jsonl")
    (tmp_path / "folder").mkdir()
    assert "folder: not a regular file" in refusal(tmp_path / "folder")


@hypothesis.settings(deadline=None, max_examples=150)
@hypothesis.given(line=st.binary(max_size=40) | st.text(max_size=40).map(lambda text: text.encode("utf-8", "replace")))
def test_no_line_escapes_as_another_exception(line: bytes):
    try:
        row = jsonl.parse_object(line)
    except jsonl.RowError:
        return
    assert isinstance(row, dict)


def test_mutilated_rows_are_refused_or_read_and_never_crash():
    """Every cut and many single-byte changes of a full row."""
    row = json.dumps({"id": "ü", "messages": [{"role": "user", "content": "\ud83d\ude00"}], "n": [1.5, -2, None]})
    content = row.encode()
    generator = np.random.default_rng(0)
    spoilt = [content[:end] for end in range(len(content))]
    for place, byte in zip(
        generator.integers(len(content), size=2000), generator.integers(256, size=2000), strict=True
    ):
        spoilt.append(content[:place] + bytes([byte]) + content[place + 1 :])
    refused = 0
    for line in spoilt:
        try:
            assert isinstance(jsonl.parse_object(line), dict)
        except jsonl.RowError as error:
            refused += 1
            str(error).encode()
    assert refused > 0.5 * len(spoilt)
