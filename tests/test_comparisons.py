"""Sources of preference data: what each shape says, and that the same facts say the same in every shape."""

import dataclasses
import itertools
import json

import pytest
from made_comparisons import over, read, rows
from made_examples import examples, named

import jaxalign.data.comparisons as sources
from jaxalign.data.comparisons import asked, labels
from jaxalign.data.comparisons.asked import Asked
from jaxalign.data.comparisons.by_gap import ByGap
from jaxalign.data.comparisons.by_prompt import ByPrompt
from jaxalign.data.comparisons.labels import Choice, First, Label, Soft
from jaxalign.data.comparisons.mixture import Mixture, parts
from jaxalign.data.comparisons.pairs import Pairs
from jaxalign.data.comparisons.ranked import Ranked
from jaxalign.data.comparisons.record import Comparison, chosen_first
from jaxalign.data.comparisons.scored import FewWords, Scored
from jaxalign.data.comparisons.source import Comparisons
from jaxalign.data.tables.inline import Inline
from jaxalign.errors import DataError

EXAMPLES = list(examples(sources, Comparisons, least=9).values())
MESSAGES = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"})


@pytest.mark.parametrize("example", EXAMPLES, ids=named)
def test_every_source_keeps_its_contract(example: Comparisons):
    found = read(example)
    assert found
    assert found == read(example), "the same every time"
    assert hash(example) == hash(dataclasses.replace(example))
    for one in found:
        assert isinstance(one, Comparison)
        assert one.prompt.messages[-1]["role"] == "user"
        assert len(one.answers) == example.responses
        assert 0.5 <= one.prefer <= 1 or len(one.answers) == 1
        assert all(vote is None or 0 <= vote <= 1 for vote in one.votes)
        assert one.weight > 0
        assert chosen_first(one) == one


@pytest.mark.parametrize("example", examples(labels, Label, least=3).values(), ids=named)
def test_a_label_says_nothing_of_an_empty_row_but_by_order(example: Label):
    assert example({}) == (None if example.ordered else 1.0)


@pytest.mark.parametrize("example", examples(asked, Asked, least=3).values(), ids=named)
def test_a_prompt_is_found(example: Asked):
    row = {"prompt": "Why?", "instruction": "Why?", "prompt_id": 7}
    with example.open() as ask:
        assert ask("here:1", row).text == "Why?"


def conversation(*texts: str) -> list[dict[str, str]]:
    roles = itertools.cycle(("user", "assistant"))
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]


WAYS = {
    "texts": {"prompt": "Why?", "chosen": "So.", "rejected": "No."},
    "a conversation to answer": {"prompt": conversation("Why?"), "chosen": "So.", "rejected": "No."},
    "answers as messages": {
        "prompt": "Why?",
        "chosen": [{"role": "assistant", "content": "So."}],
        "rejected": [{"role": "assistant", "content": "No."}],
    },
    "the prompt inside": {"chosen": conversation("Why?", "So."), "rejected": conversation("Why?", "No.")},
    "inside and beside": {
        "prompt": "Why?",
        "chosen": conversation("Why?", "So."),
        "rejected": conversation("Why?", "No."),
    },
}


@pytest.mark.parametrize("row", WAYS.values(), ids=WAYS)
def test_a_pair_is_one_however_it_is_written(row: dict):
    (found,) = rows("pairs", row)
    assert (found.prompt.messages, found.answers) == (tuple(conversation("Why?")), ("So.", "No."))
    assert (found.prefer, found.votes, found.swapped) == (1.0, (1.0,), None)


def test_all_shapes_say_the_same_of_the_same_pair():
    """So. is better than No., which stands first where the order is free."""
    answers = {"prompt": "Why?", "output_1": "No.", "output_2": "So.", "response1": "No.", "response2": "So."}
    same = {
        "pairs": WAYS["texts"],
        "soft": {**answers, "p2": 1},
        "choice": {"instruction": "Why?", **answers, "label": 2},
        "joined": {"prompt_id": 1, "chosen": "So.", "rejected": "No."},
        "transcripts": {
            name: f"\n\nHuman: Why?\n\nAssistant: {said}" for name, said in (("chosen", "So."), ("rejected", "No."))
        },
        "ranked": {"prompt": "Why?", "answers": ["No.", "So."], "ratings": [1, 2]},
        "rated": {
            "prompt": "Why?",
            "answers": [{"text": text, "meta": {"rating": n}} for n, text in enumerate(("No.", "So."))],
        },
        "votes": {**answers, "ann": 2},
        "objectives": {**answers, "helpful": 0.0, "harmless": 0.0},
    }
    for shape, row in same.items():
        (found,) = rows(shape, row)
        assert (found.prompt.text, found.answers, found.prefer) == ("Why?", ("So.", "No."), 1.0), shape
        assert found.swapped == (None if shape in ("pairs", "joined", "transcripts") else True)
        assert found.weight == 1


def test_a_conversation_may_say_more_than_the_prompt_beside_it():
    """A system message, and earlier turns, as in files of whole conversations."""
    before = [MESSAGES[0], *conversation("Who?", "I."), MESSAGES[1]]
    answers = {name: [*before, {"role": "assistant", "content": name}] for name in ("chosen", "rejected")}
    (found,) = rows("pairs", {"prompt": "Why?", **answers})
    assert found.prompt.messages == tuple(before)


def test_soft_labels_are_turned_with_their_answers():
    row = {"prompt": "Why?", "output_1": "a", "output_2": "b"}
    one, other, tie = rows("soft", {**row, "p2": 0.25}, {**row, "p2": 0.75}, {**row, "p2": 0.5})
    assert (one.answers, one.prefer, one.swapped) == (("a", "b"), 0.75, False)
    assert (other.answers, other.prefer, other.swapped) == (("b", "a"), 0.75, True)
    assert (tie.answers, tie.prefer, tie.swapped) == (("a", "b"), 0.5, False)


def test_turning_a_pair_twice_is_nothing():
    one = Comparison(
        rows("pairs", WAYS["texts"])[0].prompt, ("a", "b"), 0.25, (0.0, None, 0.5), "here", (1.0, 3.0), 2.0
    )
    turned = chosen_first(one)
    assert (turned.answers, turned.prefer, turned.votes) == (("b", "a"), 0.75, (1.0, None, 0.5))
    assert (turned.scores, turned.margin) == ((3.0, 1.0), 2.0)
    assert chosen_first(dataclasses.replace(turned, prefer=0.25)).answers == one.answers


def test_margins_and_ties():
    row = WAYS["texts"]
    plain, tie, much = rows("ties", row, {**row, "tie": True}, {**row, "tie": False, "margin": 2.5})
    assert [one.prefer for one in (plain, tie, much)] == [1.0, 0.5, 1.0]
    assert [one.margin for one in (plain, tie, much)] == [None, None, 2.5]


def test_votes_are_averaged_over_those_who_vote():
    row = {"prompt": "Why?", "response1": "a", "response2": "b"}
    split, absent, tie = rows("votes", {**row, "ann": 2, "bob": 0}, {**row, "bob": 2}, {**row, "ann": 1, "bob": 2})
    assert (split.answers, split.prefer, split.votes) == (("b", "a"), 0.75, (1.0, 0.5))
    assert (absent.answers, absent.prefer, absent.votes) == (("b", "a"), 1.0, (None, 1.0))
    assert (tie.answers, tie.prefer, tie.votes) == (("a", "b"), 0.5, (1.0, 0.0))


def test_words_and_floats_of_integers_are_choices():
    choice = Choice("winner", "model_a", "model_b", "tie")
    assert [choice({"winner": word}) for word in ("model_a", "model_b", "tie")] == [1.0, 0.0, 0.5]
    assert [Choice("label", tie=0)({"label": number}) for number in (1.0, 2.0, 0.0)] == [1.0, 0.0, 0.5]
    assert list(Choice("label", tie=1).problems()) == ["first, second and tie must differ, got 1, 2, 1"]


RATED = {"prompt": "Why?", "answers": list("abcd"), "ratings": [3, 5, 1, 3]}


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ("all", ["ba", "bd", "bc", "ad", "ac", "dc"]),
        ("adjacent", ["ba", "ad", "dc"]),
        ("best_worst", ["bc"]),
    ],
)
def test_a_ranking_gives_pairs_that_count_once_together(pairs: str, expected: list[str]):
    ranked = Ranked(Inline((json.dumps(RATED),)), rating_field="ratings", pairs=pairs)
    found = read(ranked)
    assert ["".join(one.answers) for one in found] == expected
    assert sum(one.weight for one in found) == pytest.approx(1)
    rating = dict(zip(RATED["answers"], RATED["ratings"], strict=True))
    for one in found:
        better, worse = (rating[answer] for answer in one.answers)
        assert one.prefer == (0.5 if better == worse else 1.0)
        assert one.scores == (better, worse)
        assert one.margin == better - worse
    # what is the best as a rating is the best as a rank, and as a place in a list
    places = Inline((json.dumps({**RATED, "ratings": [-rating for rating in RATED["ratings"]]}),))
    by_rank = read(dataclasses.replace(ranked, table=places, best="lowest"))
    assert [(one.answers, one.prefer, one.margin) for one in by_rank] == [
        (one.answers, one.prefer, one.margin) for one in found
    ]
    listed = Inline((json.dumps({**RATED, "answers": list("badc")}),))
    by_place = read(dataclasses.replace(ranked, table=listed, rating_field=""))
    assert [one.answers for one in by_place] == [one.answers for one in found]
    assert {(one.prefer, one.margin, one.scores, one.swapped) for one in by_place} == {(1.0, None, None, None)}


def test_fields_lead_inside():
    row = {"a.b": 1, "a": {"b": 2, "c": [3, {"d": 4}]}}
    from jaxalign.data.comparisons.fields import value

    assert [value(row, name) for name in ("a.b", "a.c[0]", "a.c[1].d", "a.c[2]", "a.x.y", "a[0]")] == [
        1,
        3,
        4,
        *[None] * 3,
    ]
    source = Pairs(
        Inline(('{"q": [{"text": "Why?"}], "data": {"a": "So.", "b": "No.", "p": 0.0}}',)),
        asked.Field("q[0].text"),
        ("data.a", "data.b"),
        Soft("data.p", "second"),
    )
    assert [one.answers for one in read(source)] == [("So.", "No.")]


def test_an_answer_may_say_nothing_and_equal_another():
    (found,) = rows("pairs", {"prompt": "Why?", "chosen": " ", "rejected": " "})
    assert found.answers == (" ", " ")


def test_a_share_of_prompts_has_all_their_pairs_and_leaves_the_rest():
    lines = [json.dumps({"prompt": f"Question {n % 100}?", "chosen": f"{n}", "rejected": ""}) for n in range(400)]
    source = Pairs(Inline(tuple(lines)))
    first, second = (read(ByPrompt(source, *ends)) for ends in ((0.0, 0.3), (0.3, 1.0)))
    prompts = [{one.prompt.text for one in part} for part in (first, second)]
    assert prompts[0].isdisjoint(prompts[1])
    assert sorted([*first, *second], key=lambda one: int(one.answers[0])) == read(source)
    assert 15 <= len(prompts[0]) <= 45  # 30 ± 3 standard deviations of 4.6
    assert {one.prompt.text for one in read(ByPrompt(source, 0.0, 0.3, seed=1))} != prompts[0]
    assert list(ByPrompt(source, 0.5, 0.5).problems())


def test_a_mixture_is_its_sources_one_after_another():
    one, two = (Pairs(Inline((json.dumps({**WAYS["texts"], "chosen": name}),))) for name in "ab")
    mixture = Mixture((one, two), (3.0, 1.0))
    assert [found.answers[0] for found in read(mixture)] == ["a", "b"]
    assert parts(mixture) == [(3.0, one), (1.0, two)]
    assert parts(Mixture((one, two))) == [(None, one), (None, two)]
    assert parts(ByPrompt(mixture, 0.0, 0.5)) == [(3.0, ByPrompt(one, 0.0, 0.5)), (1.0, ByPrompt(two, 0.0, 0.5))]
    assert list(Mixture((one,), (1.0, 2.0)).problems()) == ["shares are 2 of 1 sources"]
    assert list(Mixture((mixture, one)).problems()) == ["a mixture in a mixture; name all sources in one"]
    assert list(Mixture((one,), (0.0,)).problems()) == ["shares must be positive, got 0.0"]
    assert list(Mixture(()).problems()) == ["sources is empty"]


def test_settings_that_cannot_be_are_named():
    assert list(Pairs(Inline(()), answers=("a", "a")).problems()) == ["answers must be two keys, got 'a', 'a'"]
    assert list(over("votes", Inline(())).problems()) == []
    assert list(dataclasses.replace(over("votes", Inline(())), votes=()).problems())
    assert list(dataclasses.replace(over("transcripts", Inline(())), human="").problems())
    assert First().ordered is False


def test_a_range_of_gaps_holds_the_pairs_that_are_as_far_apart():
    """Gaps 3, 1, 0, 2, 1 by words: equal ones in the file's order."""
    texts = [("a b c d", "a"), ("a b", "a"), ("a", "b"), ("a b c", "a"), ("a", "b c")]
    lines = tuple(json.dumps({"prompt": "Why?", "chosen": one, "rejected": other}) for one, other in texts)
    scored = Scored(Pairs(Inline(lines)), FewWords())
    at = lambda *found: [read(scored)[index] for index in found]  # noqa: E731
    assert read(ByGap(scored, 0.0, 0.4)) == at(1, 2)
    assert read(ByGap(scored, 0.4, 0.8)) == at(3, 4)
    assert read(ByGap(scored, 0.8, 1.0)) == at(0)
    assert [len(read(ByGap(scored, begin, begin + 0.5))) for begin in (0.0, 0.5)] == [2, 3]
    assert "must be a range" in "".join(ByGap(scored, 0.5, 0.5).problems())
    with pytest.raises(DataError, match="the answers have no scores"):
        read(ByGap(Pairs(Inline(lines))))
