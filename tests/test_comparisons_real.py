"""Public preference data of every shape, counted once more by code that shares nothing with the readers."""

import collections
import dataclasses
import gzip
import json

import pytest
from made_comparisons import SHARED, hh, llmbar, pandalm, tallied, tldr

from jaxalign.data.tables.strict import Stop
from jaxalign.errors import DataError

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the public data sets are not in {SHARED}")


def lines(name: str) -> list[dict]:
    with gzip.open(SHARED / name, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def test_hh_transcripts():
    """2,312 pairs, of which 2,307 share everything before the last answer."""
    found, tally = tallied(hh())
    there = lines("hh-rlhf/harmless-base.test.jsonl.gz")
    cut = [[row[side].rpartition("\n\nAssistant:") for side in ("chosen", "rejected")] for row in there]
    share = [number for number, (chosen, rejected) in enumerate(cut, 1) if chosen[0] == rejected[0]]
    assert (len(there), len(share), tally.rows, tally.skipped) == (2312, 2307, 2312, 5)
    assert [int(one.place.rpartition(":")[2]) for one in found] == share
    assert [one.answers for one in found] == [tuple(side[2].strip() for side in cut[number - 1]) for number in share]
    for one, number in zip(found, share, strict=True):
        text = "".join(
            f"\n\n{'Human' if message['role'] == 'user' else 'Assistant'}: {message['content']}"
            for message in one.prompt.messages
        )
        assert text.split() == cut[number - 1][0][0].split()


def test_tldr_soft_labels():
    """17,355 pairs to 642 prompts that are in another file."""
    found, tally = tallied(tldr())
    there = lines("discopop-tldr/pairs.jsonl.gz")
    prompts = {row["prompt_id"]: row["prompt"] for row in lines("discopop-tldr/prompts.jsonl.gz")}
    assert (len(found), tally.rows, tally.skipped) == (len(there), 17355, 0)
    assert len({one.prompt.text for one in found}) == len(prompts) == 642
    for one, row in zip(found, there, strict=True):
        assert one.prompt.text == prompts[row["prompt_id"]]
        order = (2, 1) if row["p2"] > 0.5 else (1, 2)
        assert one.answers == tuple(row[f"output_{number}"] for number in order)
        assert one.prefer == max(row["p2"], 1 - row["p2"])
        assert one.swapped == (row["p2"] > 0.5)
    assert sum(one.prefer == 0.5 for one in found) == 15


def test_pandalm_votes_of_three():
    """999 pairs of three annotators each, 879 of them unanimous; six answers are JSON's true, and no texts."""
    found, tally = tallied(pandalm())
    there = json.loads((SHARED / "pandalm" / "testset-v1.json").read_text())
    odd = [row["idx"] for row in there if True in (row["response1"], row["response2"])]
    assert odd == [157, 158, 159, 161, 162, 164]
    assert (len(there), tally.rows, tally.skipped, len(found)) == (999, 999, 6, 993)
    kept = [row for row in there if row["idx"] not in odd]
    votes = [tuple(row[f"annotator{number}"] for number in (1, 2, 3)) for row in there]
    assert sum(len(set(three)) == 1 for three in votes) == 879
    assert len({one.prompt.text for one in found}) == len({(row["instruction"], row["input"]) for row in there}) == 170
    for one, row in zip(found, kept, strict=True):
        count = collections.Counter(row[f"annotator{number}"] for number in (1, 2, 3))
        first = 2 if count[2] > count[1] else 1
        assert one.answers == tuple(row[f"response{number}"] for number in (first, 3 - first))
        assert one.prefer == pytest.approx((count[first] + count[0] / 2) / 3)
        assert [vote == 0.5 for vote in one.votes] == [row[f"annotator{number}"] == 0 for number in (1, 2, 3)]
        assert row["instruction"].strip() in one.prompt.text
        assert row["input"] in one.prompt.text
    with pytest.raises(DataError, match="6 bad rows of 999") as caught:
        tallied(dataclasses.replace(pandalm(), on_bad_row=Stop()))
    text = (SHARED / "pandalm" / "testset-v1.json").read_text().split("\n")
    for line in str(caught.value).splitlines()[1:]:
        _, number, field, *_ = line.rsplit("testset-v1.json", 1)[1].split(":")
        record = "\n".join(text[int(number) - 1 : int(number) + 12])  # each stands over twelve lines
        assert json.loads(record[: record.index("}") + 1])[field] is True


def test_llmbar_labels():
    """419 pairs in five files."""
    found, tally = tallied(llmbar())
    there = [row for path in sorted((SHARED / "llmbar").glob("*.json")) for row in json.loads(path.read_text())]
    assert (len(found), tally.rows, tally.skipped) == (len(there), 419, 0)
    for one, row in zip(found, there, strict=True):
        assert one.prompt.text == row["input"]
        assert one.answers == (row[f"output_{row['label']}"], row[f"output_{3 - row['label']}"])
        assert one.swapped == (row["label"] == 2)
