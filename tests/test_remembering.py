"""A loss that remembers: β-DPO against its code written out in NumPy, and what it remembers in a fit."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from made_fits import GAME, STEPS, same_when_cut_short
from made_groups import groups, rollouts
from made_logps import logps
from made_models import nudged

from jaxalign.__main__ import main
from jaxalign.contracts.remembering import begun, recalling
from jaxalign.contracts.traced import check_loss
from jaxalign.data.groups import RolledGroups
from jaxalign.errors import BrokenContract
from jaxalign.losses.beta_dpo import BetaDPO
from jaxalign.losses.dpo import DPO
from jaxalign.losses.sum_of import SumOf
from jaxalign.models.tabular import TabularPolicy
from jaxalign.objectives.mixed import Mixed
from jaxalign.storage.record import read_metrics
from jaxalign.training.rows import RowShape, pack, stack_microbatches
from jaxalign.training.step import init_state, make_step
from jaxalign.training.views import view_of
from jaxalign.types import GroupLogps, Labels

MODEL = TabularPolicy((0.1, 0.2, 0.3, 0.4)).open()
SGD, RATE = optax.sgd(5.0), optax.constant_schedule(5.0)


def numbers(memory: Mapping[str, jax.Array]) -> dict[str, float]:
    return {name: float(value) for name, value in memory.items()}


def test_three_steps_as_its_code_takes_them():
    """Whatever is drawn: the batch's beta is of those that are kept."""
    loss = BetaDPO(beta=0.1, alpha=0.6, drop=0.3)
    memory, mean, deviation = begun(loss), 0.0, 0.0
    for seed in range(3):
        x = logps(groups=10, seed=seed)
        gaps = np.asarray((x.sums - x.anchor)[:, 0] - (x.sums - x.anchor)[:, 1], np.float64)
        mean, deviation = 0.9 * mean + 0.1 * gaps.mean(), 0.9 * deviation + 0.1 * gaps.std(ddof=1)
        seen = recalling(x, memory)
        found = np.asarray(loss(seen))
        kept = found > 0
        assert kept.sum() == 7
        beta = max(0.1 * (1 + 0.6 * (gaps[kept].mean() - mean)), 1e-3)
        expected = np.where(kept, 10 / 7 * np.logaddexp(0, -beta * gaps), 0.0)
        np.testing.assert_allclose(found, expected, rtol=1e-4)
        memory = loss.remember(seen)
        told = numbers(memory)
        np.testing.assert_allclose([told["margin_mean"], told["margin_deviation"]], [mean, deviation], rtol=1e-5)
        assert told["steps"] == seed + 1


def test_pairs_are_kept_by_how_usual_their_margins_are():
    """One of three, many times: 6000 draws leave a deviation of 0.5 / sqrt(6000) = 0.0065."""
    loss = BetaDPO(drop=0.6)
    gaps, counts = jnp.array([1.0, 2.0, 4.0, 1.5]), jnp.array([True, True, True, False])
    usual = {"margin_mean": jnp.float32(1.5), "margin_deviation": jnp.float32(1.0)}
    draw = jax.jit(jax.vmap(lambda steps: loss.kept(gaps, counts, {**usual, "steps": steps})))
    found = np.asarray(draw(jnp.arange(6000, dtype=jnp.float32))).mean(0)
    weight = np.exp(-((np.array([1.0, 2.0, 4.0]) - 1.5) ** 2) / 2)
    np.testing.assert_allclose(found, [*weight / weight.sum(), 0.0], atol=0.02)


def test_with_nothing_dropped_and_no_growth_it_is_dpo():
    x = logps(groups=10)
    loss = BetaDPO(beta=0.1, alpha=0.0, drop=0.0)
    np.testing.assert_allclose(loss(recalling(x, begun(loss))), DPO(beta=0.1)(x), rtol=1e-6)


def test_margins_that_are_all_alike_are_kept_evenly():
    x = logps(groups=10)
    equal = dataclasses.replace(x, anchor=x.sums)
    found = BetaDPO()(recalling(equal, begun(BetaDPO())))
    np.testing.assert_allclose(np.sort(found), [0.0] * 2 + [10 / 8 * np.log(2)] * 8, rtol=1e-6)


@dataclasses.dataclass(frozen=True)
class Forgetful:
    """Remembers, and reads a part of a step's groups."""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)

    def begin(self) -> Mapping[str, float]:
        return {"steps": 0.0}

    def remember(self, logps: GroupLogps) -> Mapping[str, jax.Array]:
        return {"steps": logps.memory["steps"][0] + 1}

    def __call__(self, logps: GroupLogps) -> jax.Array:
        return -logps.sums[:, 0]


def test_what_is_remembered_is_of_all_groups_of_a_step():
    with pytest.raises(BrokenContract, match="Forgetful: remembers from step to step, and must read batch"):
        check_loss(Forgetful(), Mixed(), Labels.unsaid(2, 2))


# ----------------------------------------------------------------------------------------------------------------------
# Fits


def batch(microbatches: int):
    data = dataclasses.replace(
        rollouts(prompts=2, samples=4, longest=1),
        prompt_tokens=np.zeros((2, 1), np.int32),
        prompt_lengths=np.ones(2, np.int32),
        tokens=np.tile(np.arange(4, dtype=np.int32).reshape(1, 4, 1), (2, 1, 1)),
    )
    pairs = RolledGroups(data, groups([0, 1, 1, 0, 0, 1], [[0, 1], [2, 1], [3, 0], [1, 3], [2, 0], [3, 2]]))
    chosen = np.arange(6).reshape(microbatches, -1)
    return stack_microbatches([pack(pairs, micro, RowShape(4, 2, 1), {}) for micro in chosen])


def fitted(microbatches: int):
    """Policy and memory after four steps."""
    loss = BetaDPO(beta=1.0)
    step = jax.jit(make_step(view_of(MODEL, loss), SGD, RATE))
    state, anchor = init_state(MODEL.load(), SGD, loss=loss), {"anchor": nudged(MODEL.load(), 0.3, 1)}
    for _ in range(4):
        state, metrics = step(state, {}, anchor, batch(microbatches))
    return state, metrics


def test_memory_is_the_same_however_a_batch_is_split():
    (one, metrics), (other, _) = fitted(1), fitted(3)
    np.testing.assert_allclose(one.params["table"], other.params["table"], rtol=1e-5, atol=1e-6)
    for name, value in numbers(one.memory).items():
        np.testing.assert_allclose(value, float(other.memory[name]), rtol=1e-5)
        assert value == float(metrics[f"memory/{name}"])
    assert numbers(one.memory)["steps"] == 4


CONFIG = """
import dataclasses
from jaxalign.config.load import load
from jaxalign.losses.beta_dpo import BetaDPO
experiment = dataclasses.replace(load({game!r}), loss=BetaDPO(beta=1.0, drop=0.4), swap_every=None)
"""


def train(config: Path, workdir: Path, *options: str) -> int:
    small = ("--iterations", "1", "--fit.epochs", str(STEPS), "--fit.checkpoint_every", "2")
    return main(["train", str(config), "--workdir", str(workdir), *small, *options])


def remembered(workdir: Path) -> list[list[float]]:
    steps = [line for line in read_metrics(workdir) if line["phase"] == "fit"]
    return [[line[f"memory/{name}"] for name in BetaDPO().begin()] for line in steps]


def test_memory_is_the_same_on_every_mesh(tmp_path):
    """One pair of three is kept: sums in another order round apart, at 1e-7 of margins near 1."""
    config = tmp_path / "remembering.py"
    config.write_text(CONFIG.format(game=GAME))
    splits = {"one": (), "devices": ("--placement.mesh.data", "3"), "microbatches": ("--placement.accumulate", "3")}
    for name, options in splits.items():
        assert train(config, tmp_path / name, *options) == 0
    one, *others = (remembered(tmp_path / name) for name in splits)
    assert len(one) == STEPS
    assert one[-1][1] > 1e-3  # the mean stays 0: margins of a cycle add up to nothing
    for other in others:
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_sum_has_no_memory():
    assert "a sum has no memory" in "".join(SumOf((DPO(), BetaDPO()), (1.0, 1.0)).problems())


def test_a_fit_cut_short_goes_on_with_its_memory(tmp_path, monkeypatch):
    config = tmp_path / "remembering.py"
    config.write_text(CONFIG.format(game=GAME))
    whole = same_when_cut_short(partial(train, config), tmp_path, monkeypatch)
    assert b"memory/margin_deviation" in whole
