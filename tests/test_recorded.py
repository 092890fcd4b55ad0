"""Recorded pairs: what is trained on is what the data say, and the fit is that of sampled answers."""

import dataclasses
import json

import jax
import made_groups
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_pairs import Remembered, dpo, inline, kept
from made_runs import policy, run_here, tiny_lm

from jaxalign.config.load import validate
from jaxalign.data.comparisons.pairs import Pairs
from jaxalign.data.groups import PickedGroups, RolledGroups
from jaxalign.data.order import endless
from jaxalign.data.tables.file import File
from jaxalign.errors import ConfigError, DataError
from jaxalign.evals.win_rate import WinRate
from jaxalign.feedback.recorded import Recorded
from jaxalign.losses.dpo import DPO
from jaxalign.losses.inpo import INPO
from jaxalign.losses.sppo import SPPO
from jaxalign.machine import Machine, Placement
from jaxalign.mesh.sharding import MeshShape
from jaxalign.models.random_llama import RandomLlama
from jaxalign.objectives.weighted_sum import WeightedSum
from jaxalign.references.live import Live
from jaxalign.training.rows import pack, row_shape


def lines(workdir, phase):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["phase"] == phase]


def changed(experiment, **changes):
    return dataclasses.replace(experiment, feedback=dataclasses.replace(experiment.feedback, **changes))


# --------------------------------------------------------------------------------------------------------------
# Groups by number


@pytest.mark.parametrize("seed", range(3))
def test_a_store_gives_the_rows_of_the_rollouts_that_it_holds(seed, tmp_path):
    rolled = RolledGroups(
        made_groups.rollouts(seed=seed), made_groups.groups([0, 0, 2, 1], [[0, 1], [3, 2], [1, 0], [2, 0]])
    )
    store, chosen = kept(tmp_path / "store", rolled), np.array([2, -1, 0, 3])
    assert row_shape(store) == row_shape(rolled)
    ours, theirs = (pack(groups, chosen, row_shape(rolled), {}) for groups in (store, rolled))
    jax.tree.map(np.testing.assert_array_equal, ours.rows, theirs.rows)
    jax.tree.map(np.testing.assert_array_equal, (ours.mask, ours.weight), (theirs.mask, theirs.weight))
    for name in ("prefer", "votes", "decided"):
        np.testing.assert_array_equal(getattr(ours.labels, name), getattr(theirs.labels, name))
    some = PickedGroups(store, np.array([3, 1]))
    np.testing.assert_array_equal(some.take(np.array([1])).tokens, store.take(np.array([1])).tokens)
    assert some.lengths.tolist() == store.lengths[[3, 1]].tolist()


@given(st.integers(1, 20), st.integers(0, 50), st.integers(1, 50), st.integers(0, 3))
def test_an_endless_order_has_every_number_before_any_again(count, start, length, seed):
    whole = endless(count, seed, 0, start + length)
    np.testing.assert_array_equal(endless(count, seed, start, length), whole[start:])
    for epoch in range(len(whole) // count):
        assert sorted(whole[epoch * count : (epoch + 1) * count]) == list(range(count))


# --------------------------------------------------------------------------------------------------------------
# What is refused, before any compute


def refused(tmp_path, experiment, error, sentence):
    place = tmp_path / str(len(list(tmp_path.iterdir())))
    with pytest.raises(error, match=sentence):
        run_here(experiment, place)
    assert not (place / "initial").exists()


def test_losses_that_read_what_nobody_has_said_are_refused_by_name(tmp_path):
    last = dataclasses.replace(dpo(), loss=INPO(eta=0.1, tau=0.01))
    refused(tmp_path, last, DataError, r"loss INPO: needs log-probs of the policy that sampled the pairs \(last\)")
    refused(tmp_path, dataclasses.replace(dpo(), loss=SPPO()), DataError, "loss SPPO: the loss reads win rates")


def test_a_combiner_of_other_objectives_than_there_are_votes_is_refused(tmp_path):
    two = dataclasses.replace(dpo(), combiner=WeightedSum((0.5, 0.5)))
    refused(tmp_path, two, ConfigError, "combiner: has 2 objectives, and the pairs have votes of 1 annotators")


def test_held_out_prompts_that_are_trained_on_are_refused(tmp_path):
    leaking = changed(dpo(), heldout=dpo().feedback.pairs)
    refused(tmp_path, leaking, DataError, "feedback.heldout: 50 of its 50 prompts are trained on")


def test_pairs_that_changed_since_the_first_launch_are_named_by_their_file(tmp_path):
    """Once something is computed; what is held out is a file of its own."""
    names = ("pairs", "heldout")
    files = {name: tmp_path / f"{name}.jsonl" for name in names}

    def write(name: str, chosen: str) -> None:
        row = {"prompt": f"Why {name}?", "chosen": chosen, "rejected": "No."}
        files[name].write_text(json.dumps(row) + "\n")

    for name in names:
        write(name, "So.")
    made = changed(dpo(), **{name: Pairs(File(str(path))) for name, path in files.items()})
    run_here(made, tmp_path / "run")
    write("heldout", "Because.")
    with pytest.raises(ConfigError, match=r"reads other inputs than at its first launch") as refused:
        run_here(made, tmp_path / "run")
    assert f"feedback.heldout: {files['heldout']}: " in str(refused.value)
    assert str(files["pairs"]) not in str(refused.value)


def test_evals_and_fits_that_ask_for_what_is_not_there_are_refused(tmp_path):
    asking = dataclasses.replace(dpo().evaluation, evals=(WinRate(),))
    with pytest.raises(ConfigError) as caught:
        validate(dataclasses.replace(dpo(), evaluation=asking))
    assert "WinRate needs answers, and there are none: give evaluation.prompts" in str(caught.value)
    assert "WinRate needs oracle, and there are none: give evaluation.oracle" in str(caught.value)
    with pytest.raises(ConfigError, match="HeldOutPairs needs pairs, and there are none: hold some out"):
        validate(changed(dpo("--fit.evaluate_every", "none", "--fit.keep", "last"), heldout=None))
    with pytest.raises(ConfigError, match="the feedback holds no pairs out"):
        validate(tiny_lm("--fit.evaluate_every", "2"))
    with pytest.raises(ConfigError, match="keep 'best' and patience go by the held-out loss"):
        validate(dpo("--fit.evaluate_every", "none"))


# --------------------------------------------------------------------------------------------------------------
# The fit


def test_recorded_pairs_train_as_the_sampled_ones_that_they_are(tmp_path):
    """The same numbers of groups, the same rows, and so the same losses and the same policy, bit for bit."""
    short = dataclasses.replace(tiny_lm("--iterations", "1", "--swap_every", "none"), loss=DPO())
    run_here(short, tmp_path / "sampled")
    recorded = Remembered(inline(("never", "read", "here")), max_tokens=8, run=str(tmp_path / "sampled"))
    evaluation = dataclasses.replace(short.evaluation, oracle=short.feedback.oracle)
    run_here(dataclasses.replace(short, feedback=recorded, evaluation=evaluation), tmp_path / "recorded")
    ours, theirs = (lines(tmp_path / name, "fit") for name in ("recorded", "sampled"))
    assert len(ours) > 1
    assert ours == theirs
    jax.tree.map(np.testing.assert_array_equal, policy(tmp_path / "recorded", 1), policy(tmp_path / "sampled", 1))
    assert lines(tmp_path / "recorded", "evals") == lines(tmp_path / "sampled", "evals")


def test_live_references_and_more_devices_change_nothing_but_rounding(tmp_path):
    run_here(dpo(), tmp_path / "one")
    others = {
        "live": dataclasses.replace(dpo(), reference=Live()),
        "eight": dpo("--placement.mesh.data", "2", "--placement.mesh.fsdp", "2", "--placement.mesh.tensor", "2"),
    }
    for name, experiment in others.items():
        summary = run_here(experiment, tmp_path / name)
        for ours, theirs in zip(lines(tmp_path / name, "fit"), lines(tmp_path / "one", "fit"), strict=True):
            # seven steps of Adam on gradients that differ by fp32 rounding of sums in another order
            assert ours["loss"] == pytest.approx(theirs["loss"], abs=2e-4)
        one = lines(tmp_path / "one", "evals")[-1]
        assert summary["heldout_loss"] == pytest.approx(one["heldout/loss"], abs=2e-4)


@dataclasses.dataclass(frozen=True)
class Nothing:
    """A run that recorded pairs ask nothing of."""

    machine: Machine

    def phase(self, iteration, name, kind, make):
        raise AssertionError

    def roll(self, roller, policy, prompts, iteration, phase, key):
        raise AssertionError

    def anchor_policy(self, iteration, policy):
        raise AssertionError

    def judge(self, oracle, rollouts, iteration):
        raise AssertionError


def test_iterations_take_their_share_of_the_pairs_one_after_another(tmp_path):
    machine = Machine(RandomLlama().open(), Placement(mesh=MeshShape(fsdp=1)), 7)
    spec = dataclasses.replace(dpo().feedback, pairs_per_iteration=20)
    opened = spec.open(machine, tmp_path, 3)
    drawn = [opened.groups(iteration).numbers for iteration in range(3)]
    assert [len(each) for each in drawn] == [20, 20, 20]
    assert len(set(np.concatenate(drawn)[:50].tolist())) == 50
    np.testing.assert_array_equal(opened.groups(1).numbers, drawn[1])
    found = opened(Nothing(machine), 1, {})
    assert found.rollouts is None
    assert found.preferences is None
    assert found.metrics["pairs/groups"] == 20
    np.testing.assert_array_equal(found.groups.lengths, opened.pairs.lengths[drawn[1]])


def test_settings_that_make_no_sense_are_named():
    wrong = Recorded(inline(("Why?", "A", "B")), pairs_per_iteration=0, max_prompt_tokens=0, max_tokens=0)
    assert len(list(wrong.problems())) == 3
