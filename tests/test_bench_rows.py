"""Real pairs fill packed rows: the bar of padding, by the command that measures it."""

import argparse
import dataclasses
import pathlib

import pytest
from made_comparisons import SHARED

from jaxalign.bench.rows import laid
from jaxalign.config.load import load
from jaxalign.data.comparisons.by_prompt import ByPrompt
from jaxalign.machine import Machine
from jaxalign.models.pretrained import SmolLM2

HH = SHARED / "hh-rlhf" / "harmless-base.test.jsonl.gz"


@pytest.mark.skipif(not HH.exists(), reason=f"{HH} is not here: public pairs beside some checkouts")
def test_dialogues_of_people_leave_little_padding(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    """A third of HH's pairs, in rows of 4,096 tokens: a pass over all, and steps of 64 whose batches are level."""
    monkeypatch.chdir(pathlib.Path(__file__).parents[1])
    experiment = load("configs/preference/dpo_hh.py")
    pairs = ByPrompt(experiment.feedback.pairs.source, 0.1, 0.4)
    feedback = dataclasses.replace(experiment.feedback, pairs=pairs, heldout=None, max_prompt_tokens=None)
    machine = Machine(SmolLM2().open(), experiment.placement, 0)
    groups = feedback.open(machine, tmp_path, 1).pairs
    assert len(groups) > 500
    args = argparse.Namespace(tokens=4096, groups=1, batch_size=64, rows=1, shards=1)
    found = {(row["laid"], row["for"]): row for row in laid(groups, args)}
    assert found["packed", "pass"]["padding"] < 0.03
    assert found["one prompt a row", "steps, shuffled"]["padding"] > 0.7
    level = found["packed", "steps, level"]
    last = len(groups) % 64  # a step of fewer pairs has as many rows
    steps = -(-len(groups) // 64)
    assert level["padding"] < 0.03 + (1 - last / 64) / steps
    assert level["shapes"] == 1
    assert level["pairs"] == len(groups)
