"""Runs of packed rows: the same policy, stopped or not, and rows that are refused before anything is computed."""

import dataclasses

import jax
import numpy as np
import pytest
from made_pairs import alone as lone
from made_pairs import dpo, inline
from made_runs import lines_of, policy, run_here, same_when_stopped

from jaxalign.data.comparisons.alone import Alone
from jaxalign.data.trained import as_trained
from jaxalign.errors import DataError
from jaxalign.feedback.rowed import check_rows
from jaxalign.losses.kto import KTO
from jaxalign.machine import Machine
from jaxalign.training.packed import Packed, alone
from jaxalign.training.step import Fit


def packed(*overrides: str, **options):
    made = dpo("--fit.batch_size", "16", *overrides)
    return dataclasses.replace(made, fit=dataclasses.replace(made.fit, rows=Packed(**options)))


def test_a_run_of_packed_rows_ends_with_the_same_policy(tmp_path):
    """The same groups in each step, references and held-out pairs scored in packed rows; fewer tokens for each."""
    run_here(dpo("--fit.batch_size", "16"), tmp_path / "apart")
    run_here(packed(tokens=256), tmp_path / "packed")
    for one, other in zip(*(jax.tree.leaves(policy(tmp_path / name, 1)) for name in ("apart", "packed")), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-4)
    losses = {name: [line["loss"] for line in lines_of(tmp_path / name, "fit")] for name in ("apart", "packed")}
    np.testing.assert_allclose(losses["packed"], losses["apart"], rtol=1e-4)
    assert lines_of(tmp_path / "packed", "align")[0]["groups/too_long"] == 0


def test_a_packed_fit_that_is_stopped_again_and_again_ends_with_the_same_bits(tmp_path):
    made = packed(tokens=256, shapes=2)
    same_when_stopped(
        dataclasses.replace(made, fit=dataclasses.replace(made.fit, batches="level")), tmp_path, 12, least=1
    )


def test_a_run_whose_rows_are_too_short_is_refused_or_counts_what_it_leaves_out(tmp_path):
    rows = [(f"Moin, I am {k}.", "Hello!", "No.") for k in range(20)]
    made = packed("--fit.evaluate_every", "none", "--fit.keep", "last", tokens=96)
    feedback = dataclasses.replace(made.feedback, pairs=inline(*rows, ("Why? " * 30, "A", "B")))
    made = dataclasses.replace(made, feedback=feedback)
    with pytest.raises(DataError, match="1 of 21 groups are longer than a row of 96 tokens"):
        run_here(made, tmp_path / "refused")
    rule = dataclasses.replace(made.fit.rows, too_long="drop")
    run_here(dataclasses.replace(made, fit=dataclasses.replace(made.fit, rows=rule)), tmp_path / "dropped")
    assert lines_of(tmp_path / "dropped", "align")[0]["groups/too_long"] == 1


def test_rows_are_checked_for_the_strays_of_every_iteration(tmp_path):
    """Among all pairs the long prompt has a short stray; in some iteration the long answer is drawn beside it."""
    rows = [(f"Moin, I am {k}.", "Hello!", "No.") for k in range(10)]
    rows[0], rows[5] = ("Why? " * 10, "A", "B"), ("Moin, I am 5.", "Hello! " * 4, "No.")
    made = lone(dpo())
    machine = Machine(made.model.open(), made.placement, 0)
    feedback = dataclasses.replace(made.feedback, pairs=Alone(inline(*rows)), heldout=None, pairs_per_iteration=4)
    recorded = feedback.open(machine, tmp_path, 100)
    rule = Packed(int(alone(as_trained(KTO(1.0), recorded.pairs)).max()))
    with pytest.raises(DataError, match="longer than a row"):
        check_rows(rule, KTO(1.0), recorded, machine.model, 100)
    check_rows(Packed(256), KTO(1.0), recorded, machine.model, 100)


def test_rules_are_checked():
    assert list(Packed(0, shapes=0).problems()) == [
        "tokens must be at least 1, got 0",
        "shapes must be at least 1, got 0",
    ]
    found = dataclasses.replace(dpo(), fit=Fit(batch_size=8, rows=Packed(groups=3), evaluate_every=1)).problems()
    assert "fit.batch_size 8 must be a multiple of fit.rows.groups 3" in list(found)
