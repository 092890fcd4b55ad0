"""An anchor that follows the policy within a fit: what it is after each step, and a fit cut short goes on with it."""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from made_fits import GAME, STEPS, same_when_cut_short
from made_groups import groups, rollouts
from made_models import nudged
from made_pairs import dpo
from made_runs import lines_of, run_here, tiny_lm

from jaxalign.__main__ import main
from jaxalign.data.groups import RolledGroups
from jaxalign.losses.dpo import DPO
from jaxalign.losses.ipo import IPO
from jaxalign.models.tabular import TabularPolicy
from jaxalign.objectives.mixed import Mixed
from jaxalign.references.following import Following
from jaxalign.training.rows import RowShape, pack, stack_microbatches
from jaxalign.training.step import init_state, make_step
from jaxalign.training.views import view_of
from jaxalign.types import GroupLogps, Labels

MODEL = TabularPolicy((0.1, 0.2, 0.3, 0.4)).open()
HARD = Labels.of_one(prefer=jnp.ones(1), win=jnp.array([[1.0, 0.0]]))
SGD, RATE = optax.sgd(5.0), optax.constant_schedule(5.0)
CONFIG = """
import dataclasses
from jaxalign.config.load import load
from jaxalign.losses.ipo import IPO
from jaxalign.references.following import Following
game = load({game!r})
experiment = dataclasses.replace(game, loss=IPO(tau=0.1), reference=Following(share=0.5, every=2), swap_every=None)
"""


def batch():
    data = dataclasses.replace(
        rollouts(prompts=2, samples=4, longest=1),
        prompt_tokens=np.zeros((2, 1), np.int32),
        prompt_lengths=np.ones(2, np.int32),
        tokens=np.tile(np.arange(4, dtype=np.int32).reshape(1, 4, 1), (2, 1, 1)),
    )
    pairs = RolledGroups(data, groups([0, 1, 1], [[0, 1], [2, 1], [3, 0]]))
    return stack_microbatches([pack(pairs, np.arange(3), RowShape(4, 2, 1), {})])


def followed(following: Following, steps: int):
    """Table of the policy and of the anchor after each step."""
    step = jax.jit(make_step(view_of(MODEL, DPO(1.0)), SGD, RATE, Mixed(), following))
    policy = MODEL.load()
    state = init_state(policy, SGD, {"anchor": nudged(policy, 0.3, 1)})
    for _ in range(steps):
        state, metrics = step(state, {}, {}, batch())
        yield state.params, state.references["anchor"], metrics


def test_the_anchor_moves_by_its_share_when_it_is_time():
    """Beside steps against an anchor that stays, moved by hand."""
    step = jax.jit(make_step(view_of(MODEL, DPO(1.0)), SGD, RATE))
    policy = MODEL.load()
    state, anchor = init_state(policy, SGD), nudged(policy, 0.3, 1)
    for number, (params, found, _) in enumerate(followed(Following(share=0.25, every=2), 5), start=1):
        state, _ = step(state, {}, {"anchor": anchor}, batch())
        if number % 2 == 0:
            anchor = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, anchor, state.params)
        np.testing.assert_allclose(params["table"], state.params["table"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found["table"], anchor["table"], rtol=1e-5, atol=1e-6)


def test_an_anchor_that_becomes_the_policy_at_once_leaves_no_margin():
    first, *later = [metrics for _, _, metrics in followed(Following(share=1.0, every=1), 4)]
    assert abs(first["rewards/margins"]) > 1e-3
    assert [float(metrics["rewards/margins"]) for metrics in later] == [0.0] * 3


def test_what_follows_is_live_and_the_rest_is_stored():
    assert Following().stored(("last", "anchor")) == ("last",)
    assert Following().live(("last", "anchor")) == ("anchor",)
    assert "share must lie in" in "".join(Following(share=0.0).problems())
    assert "every must be" in "".join(Following(every=0).problems())


def followed_runs(tmp_path, **following):
    """Recorded pairs and sampled ones, of which some are not trained on; an anchor that follows."""
    reference = Following(**following)
    watched = ("--feedback.validation", "0.25", "--fit.evaluate_every", "1", "--iterations", "1", "--fit.epochs", "2")
    sampled = dataclasses.replace(tiny_lm(*watched), loss=IPO(0.1), reference=reference, swap_every=None)
    recorded = dataclasses.replace(dpo("--fit.evaluate_every", "2"), reference=reference)
    for name, experiment in (("sampled", sampled), ("recorded", recorded)):
        run_here(experiment, tmp_path / name)
        yield experiment.loss, lines_of(tmp_path / name, "heldout")


def test_held_out_losses_are_against_where_the_fit_began_and_what_it_descends_is_told(tmp_path):
    """An anchor that becomes the policy at every step: of it the loss is that of a margin of 0, whatever the policy."""
    none = GroupLogps(*(jnp.zeros((1, 2, 1)), jnp.ones((1, 2, 1), bool), jnp.zeros((1, 2)), jnp.zeros((1, 2))), HARD)
    for loss, heldout in followed_runs(tmp_path, share=1.0, every=1):
        assert len(heldout) > 2
        at_0 = float(loss(none)[0])
        for line in heldout:
            assert line["heldout/loss_as_fitted"] == pytest.approx(at_0, rel=1e-4)
        moved = [line["heldout/loss"] for line in heldout if line["step"]]
        assert all(abs(each - at_0) > 2e-4 * at_0 for each in moved)


def test_an_anchor_that_has_not_moved_yet_is_the_one_that_the_fit_began_with(tmp_path):
    for _, heldout in followed_runs(tmp_path, share=0.5, every=1000):
        assert len(heldout) > 2
        for line in heldout:
            assert line["heldout/loss_as_fitted"] == pytest.approx(line["heldout/loss"], rel=1e-4)


def train(config: Path, workdir: Path) -> int:
    small = ("--iterations", "1", "--fit.epochs", str(STEPS), "--fit.checkpoint_every", "2")
    return main(["train", str(config), "--workdir", str(workdir), *small])


def test_a_fit_cut_short_goes_on_with_its_anchor(tmp_path, monkeypatch):
    config = tmp_path / "following.py"
    config.write_text(CONFIG.format(game=GAME))
    whole = same_when_cut_short(partial(train, config), tmp_path, monkeypatch)
    assert b"rewards/margins" in whole


def test_the_anchor_in_the_state_is_the_live_one_at_first():
    state = init_state(MODEL.load(), SGD, {"anchor": nudged(MODEL.load(), 0.3, 1)})
    stays = init_state(MODEL.load(), SGD)
    own = jax.jit(make_step(view_of(MODEL, DPO(1.0)), SGD, RATE, Mixed(), Following(every=9)))
    live = jax.jit(make_step(view_of(MODEL, DPO(1.0)), SGD, RATE))
    one, metrics = own(state, {}, {}, batch())
    other, expected = live(stays, {}, {"anchor": nudged(MODEL.load(), 0.3, 1)}, batch())
    np.testing.assert_array_equal(one.params["table"], other.params["table"])
    assert metrics["loss"] == expected["loss"]
    assert jnp.array_equal(one.references["anchor"]["table"], nudged(MODEL.load(), 0.3, 1)["table"])
