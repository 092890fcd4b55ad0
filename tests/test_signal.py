"""What a bag of words tells of pairs: what was planted, nothing of noise, and of pairs that it has not learned from."""

import itertools
import json

import numpy as np
import pytest
from made_comparisons import SHARED, read

from jaxalign.data.comparisons.asked import Joined
from jaxalign.data.comparisons.labels import Soft
from jaxalign.data.comparisons.pairs import Pairs
from jaxalign.data.comparisons.shown import lines
from jaxalign.data.comparisons.signal import BUCKETS, bag_of_words, counted, fitted
from jaxalign.data.comparisons.summary import summarise
from jaxalign.data.comparisons.transcripts import Transcripts
from jaxalign.data.tables.file import File
from jaxalign.data.tables.inline import Inline
from jaxalign.data.tables.strict import Skip

WORDS = ("red", "green", "blue", "grey", "pink", "teal")


def said(prompts: int, better: str) -> Pairs:
    """Two pairs a prompt, of four words each; the chosen answer has `better` among them."""
    random = np.random.default_rng(0)

    def answer(first: str) -> str:
        return " ".join([first, *random.choice(WORDS, 3)])

    return Pairs(
        Inline(
            tuple(
                json.dumps({"prompt": f"Colour {number}?", "chosen": answer(better), "rejected": answer("teal")})
                for number in range(prompts)
                for _ in range(2)
            )
        )
    )


def test_a_word_that_wins_is_found_on_prompts_that_were_not_learned_from():
    found = bag_of_words(said(40, "good"), 80)
    assert len(found["right"]) == 80
    assert found["right"].mean() == 1.0
    assert len(np.unique(found["prompt"])) == 40


def test_nothing_is_found_where_there_is_nothing():
    right = bag_of_words(said(200, "teal"), 400)["right"]
    assert abs(right.mean() - 0.5) < 3 * 0.5 / np.sqrt(len(right))


def test_the_summary_and_the_lines_say_it():
    summary = summarise(said(40, "good"), lambda texts: list(map(len, texts)), signal=True)
    told = summary["signal"]["bag_of_words"]
    assert (told["share"], told["of"]) == (1.0, 80)
    shown = "\n".join(lines({"unit": "characters", **summary}))
    assert "a bag of words of other prompts tells the preferred one  1.000" in shown
    assert "signal" not in summarise(said(40, "good"), lambda texts: list(map(len, texts)))


def test_too_few_prompts_to_hold_a_fifth_out():
    assert len(bag_of_words(said(4, "good"), 8)["right"]) == 0


def test_counts_are_of_the_first_answer_minus_the_second():
    pair = read(Pairs(Inline(('{"prompt": "p", "chosen": "A b, a b", "rejected": "b"}',))))
    counts = counted(pair)
    # a b , a b: a twice, b twice (less one), a comma; "a b" twice, "b ,", ", a"
    assert sorted(counts.data.tolist()) == pytest.approx(sorted([2, 1, 1, 2, 1, 1, np.log(6 / 2)]))
    assert counts[[0], [BUCKETS]] == pytest.approx(np.log(3))


def test_weights_have_no_slope():
    counts, prefer = counted(read(said(6, "good"))), np.linspace(0.5, 1, 12)
    weights = fitted(counts, prefer)

    def loss(at: np.ndarray) -> float:
        odds = counts @ at
        nats = prefer * np.logaddexp(0, -odds) + (1 - prefer) * np.logaddexp(0, odds)
        return float(nats.mean() + 1e-3 * (at**2).sum())

    (used,) = np.nonzero(weights)
    for column, step in itertools.product(used[:10], (-1e-2, 1e-2)):
        moved = weights.copy()
        moved[column] += step
        assert loss(moved) > loss(weights)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no preference data beside this checkout")
@pytest.mark.parametrize(
    ("source", "total", "least"),
    [
        (Transcripts(File(str(SHARED / "hh-rlhf" / "harmless-base.test.jsonl.gz")), on_bad_row=Skip(0.01)), 2307, 0.55),
        (
            Pairs(
                File(str(SHARED / "discopop-tldr" / "pairs.jsonl.gz"), limit=2000),
                Joined(File(str(SHARED / "discopop-tldr" / "prompts.jsonl.gz"))),
                ("output_1", "output_2"),
                Soft("p2", "second"),
            ),
            2000,
            0.55,
        ),
    ],
)
def test_people_leave_a_trace_in_words(source, total, least):
    assert bag_of_words(source, total)["right"].mean() > least
