"""The doctor and the plan on recorded pairs: what needs no answers is looked at, what needs some is skipped."""

import dataclasses

import numpy as np
import pytest
from made_openings import by_name
from made_pairs import alone, dpo, inline

from jaxalign.doctor.checks.pairs import CHECK
from jaxalign.doctor.examine import examine
from jaxalign.doctor.opened import Opened
from jaxalign.doctor.row import tokens
from jaxalign.machine import Machine
from jaxalign.plan.schedule import calls
from jaxalign.training.one_prompt import OnePrompt
from jaxalign.training.packed import Packed


def test_what_needs_no_answers_is_looked_at(tmp_path):
    opened = Opened(dpo(), tmp_path, 8)
    found = by_name(examine(opened))
    assert {name for name, outcome in found.items() if outcome.status == "finding"} == set()
    for name in (
        "recorded pairs",
        "training row",
        "loss at step 0",
        "policy = reference at step 0",
        "batches over the mesh",
    ):
        assert found[name].status == "ok", found[name]
    assert found["recorded pairs"].measured["pairs"] == 50
    assert found["recorded pairs"].measured["heldout_pairs"] == 14
    for name in ("sampling", "preferences", "lengths"):
        assert found[name].status == "skipped", found[name]
    assert "recorded" in found["sampling"].fix


def test_lone_answers_are_looked_at_too(tmp_path):
    """What a pair is needed for is not told of them."""
    found = by_name(examine(Opened(alone(dpo()), tmp_path, 8)))
    assert {name for name, outcome in found.items() if outcome.status == "finding"} == set()
    assert found["recorded pairs"].measured["pairs"] == 100
    assert "dpo" not in found["loss at step 0"].measured
    assert {token.part for token in tokens(Opened(alone(dpo()), tmp_path, 8))} == {"prompt", "answer 1"}
    assert found["loss at step 0"].measured["loss"] == pytest.approx(np.log(2), abs=1e-5)


def test_the_row_that_is_shown_is_of_the_first_pair(tmp_path):
    opened = Opened(dpo(), tmp_path, 8)
    row = tokens(opened)
    said = {
        branch: "".join(token.text for token in row if token.branch == branch and token.logp is not None)
        for branch in (1, 2)
    }
    first = opened.comparer.pairs.take(np.array([0]))
    assert [len([token for token in row if token.branch == side + 1]) for side in (0, 1)] == first.lengths[0].tolist()
    assert all(text for text in said.values())


def test_rows_that_pairs_share_are_looked_at_as_they_are_trained_on(tmp_path):
    """Three pairs of a prompt and four answers, one of another's: the row shown is the first three's, and has four."""
    rows = [("Why?", "A", "B"), ("Why?", "A", "So."), ("How?", "A", "No."), ("Why?", "So.", "Then.")]
    made = dpo("--fit.rows.groups", "4", "--fit.batch_size", "8")
    made = dataclasses.replace(made, feedback=dataclasses.replace(made.feedback, pairs=inline(*rows), heldout=None))
    opened = Opened(made, tmp_path, 8)
    found = by_name(examine(opened))
    assert {name for name, outcome in found.items() if outcome.status == "finding"} == set()
    assert found["training row"].status == found["policy = reference at step 0"].status == "ok"
    assert found["loss at step 0"].measured["loss"] == pytest.approx(np.log(2), abs=1e-5)
    parts = list(dict.fromkeys(token.part for token in tokens(opened)))
    assert parts == ["prompt", "answer 1", "answer 2", "answer 3", "answer 4"]
    shared = found["pairs that share a row"]
    assert shared.status == "warning"
    assert "no prompt has more than 3 pairs" in shared.fix
    assert "has 4 pairs on average" in shared.fix
    assert shared.measured == {"groups_a_row": 4, "most_of_a_prompt": 3, "places_used": 0.5}
    fits = dataclasses.replace(made, fit=dataclasses.replace(made.fit, rows=OnePrompt(2)))
    assert by_name(examine(Opened(fits, tmp_path, 8)))["pairs that share a row"].status == "ok"


@pytest.mark.slow
def test_rows_of_many_prompts_are_looked_at_as_they_are_trained_on(tmp_path):
    """Two pairs of a prompt and two of others in rows of 96 tokens; one prompt that no such row holds."""
    rows = [("Why?", "A", "B"), ("How?", "A", "No."), ("Why?", "So.", "Then."), ("Who?", "I", "You")]

    def outcomes(rule: Packed, *more: tuple[str, str, str]):
        made = dpo("--fit.batch_size", "4")
        feedback = dataclasses.replace(made.feedback, pairs=inline(*rows, *more), heldout=None)
        made = dataclasses.replace(made, feedback=feedback, fit=dataclasses.replace(made.fit, rows=rule))
        there = Opened(made, tmp_path, 8)
        return there, by_name(examine(there))

    there, found = outcomes(Packed(96))
    assert {name for name, outcome in found.items() if outcome.status == "finding"} == set()
    assert found["policy = reference at step 0"].status == found["loss at step 0"].status == "ok"
    assert list(dict.fromkeys(token.part for token in tokens(there))) == ["prompt", "chosen", "rejected"]
    measured = found["rows of many prompts"].measured
    taken = there.comparer.pairs
    whole = int(np.sum(taken.lengths)) + int(taken.prompt_lengths.sum() - taken.prompt_lengths[0])
    cells = measured["rows_a_step"] * measured["row_tokens"]
    assert measured["padding_fraction"] == pytest.approx(1 - whole / cells), "the prompt of two pairs counts once"
    long = ("Why? " * 30, "A", "B")
    _, refused = outcomes(Packed(96), long)
    assert "1 of 5 groups are longer than a row of 96 tokens" in refused["rows of many prompts"].fix
    _, dropped = outcomes(Packed(96, too_long="drop"), long)
    assert dropped["rows of many prompts"].status == "warning"
    assert dropped["rows of many prompts"].measured["too_long"] == 1


def test_pairs_that_are_left_out_or_leak_are_told(tmp_path):
    made = dpo()
    rows = [("Why?", "A", "B"), ("How?", "A" * 40, "B")]
    feedback = dataclasses.replace(made.feedback, pairs=inline(*rows), heldout=inline(rows[0]))
    (outcome,) = CHECK(Opened(dataclasses.replace(made, feedback=feedback), tmp_path, 8))
    assert outcome.status == "finding"
    assert "1 of its 1 prompts are trained on" in outcome.fix
    feedback = dataclasses.replace(feedback, heldout=None)
    (outcome,) = CHECK(Opened(dataclasses.replace(made, feedback=feedback), tmp_path, 8))
    assert outcome.status == "warning"
    assert "50% of the comparisons are left out: 1 with an answer of more than 32 tokens" in outcome.fix


def test_a_plan_calls_no_rollout_and_counts_the_pairs():
    made = dpo()
    machine = Machine(made.model.open(), made.placement, 0)
    # Two batches of fourteen held-out pairs: their anchor, the loss at four steps, and what two policies make of them.
    assert calls(made, machine) == {"train": 7, "logp": 4, "left_out": 2 * (1 + 4 + 2)}
    some = dataclasses.replace(made, feedback=dataclasses.replace(made.feedback, pairs_per_iteration=20))
    assert calls(some, machine) == {"train": 3, "logp": 2, "left_out": 2 * (1 + 2 + 2)}
