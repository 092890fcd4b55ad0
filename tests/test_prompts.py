"""The prompts that ship: enough, distinct, varied, and the held-out ones about other things."""

import collections
import json
import pathlib
import re

import numpy as np
import pytest

import jaxalign
from jaxalign.data.prompts import BuiltinPrompts

FOLDER = pathlib.Path(jaxalign.__file__).parent / "data" / "builtin"
ROWS = {
    split: [json.loads(line) for line in (FOLDER / f"{split}.jsonl").read_text("utf-8").splitlines()]
    for split in ("train", "heldout")
}
ALL = ROWS["train"] + ROWS["heldout"]


def words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.lower()))


def test_there_are_enough():
    assert len(ROWS["train"]) >= 420
    assert len(ROWS["heldout"]) >= 110


def test_rows_have_the_three_fields_and_ids_of_their_split():
    for split, rows in ROWS.items():
        assert all(set(row) == {"id", "category", "prompt"} for row in rows)
        assert [row["id"] for row in rows] == [f"{split}-{number:04d}" for number in range(1, len(rows) + 1)]


def test_no_text_occurs_twice_in_either_split():
    normal = collections.Counter(" ".join(re.findall(r"\w+", row["prompt"].lower())) for row in ALL)
    assert normal.most_common(1)[0][1] == 1


def test_lengths():
    counts = sorted(len(row["prompt"].split()) for row in ALL)
    assert 5 <= counts[0] <= counts[-1] <= 120
    assert 8 <= counts[len(counts) // 2] <= 40
    assert all(row["prompt"] == row["prompt"].strip() for row in ALL)


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_categories_spread(split: str):
    counts = collections.Counter(row["category"] for row in ROWS[split])
    assert len(counts) >= 14
    assert max(counts.values()) <= 0.15 * len(ROWS[split])
    first = [row["category"] for row in ROWS[split][: len(counts)]]
    assert len(set(first)) == len(counts), "the first rows should be as varied as all of them"


def test_no_two_are_alike():
    """Jaccard index of the word sets of every pair, across both splits."""
    sets = [words(row["prompt"]) for row in ALL]
    vocabulary = sorted(frozenset.union(*sets))
    holds = np.array([[word in one for word in vocabulary] for one in sets], dtype=np.float32)
    common = holds @ holds.T
    sizes = holds.sum(1)
    jaccard = common / (sizes[:, None] + sizes[None, :] - common)
    np.fill_diagonal(jaccard, 0)
    one, other = np.unravel_index(jaccard.argmax(), jaccard.shape)
    assert jaccard.max() < 0.6, (ALL[one], ALL[other])


def test_no_opening_is_a_template():
    """Five words in common at the start happen in natural questions; a filled-in form would have dozens."""
    openings = collections.Counter(" ".join(row["prompt"].lower().split()[:5]) for row in ALL)
    assert openings.most_common(1)[0][1] <= 6, openings.most_common(3)


def test_all_open_as_prompts(tmp_path: pathlib.Path):
    for split, rows in ROWS.items():
        prompts = BuiltinPrompts(split).open(tmp_path)
        assert [prompts[index].id for index in range(len(prompts))] == [row["id"] for row in rows]
        assert [prompts[index].text for index in range(len(prompts))] == [row["prompt"] for row in rows]
    assert len(BuiltinPrompts(limit=7).open(tmp_path)) == 7
