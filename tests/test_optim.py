"""Optimiser chains and schedules."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from made_examples import examples, named

import jaxalign.training
from jaxalign.config.load import load, validate
from jaxalign.contracts.traced import built
from jaxalign.errors import ConfigError
from jaxalign.training.optim import AdamW, GradientDescent, WarmupCosine, WarmupLinear
from jaxalign.types import Optimizer, Schedule

SCHEDULES = examples(jaxalign.training, Schedule, least=2)
OPTIMIZERS = examples(jaxalign.training, Optimizer, least=2)
TINY = Path(__file__).parents[1] / "configs" / "tiny_lm.py"


def updated(optimizer: optax.GradientTransformation, grads, params):
    """Updates of the first step and the state after it, computed as a training step does."""
    with jax.numpy_dtype_promotion("standard"):
        update = jax.jit(optax.with_extra_args_support(optimizer).update)
        return update(grads, optimizer.init(params), params, step=0)


@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=named)
def test_a_rate_is_finite_and_positive_at_every_step_but_the_end(schedule, steps):
    rates = np.array([float(schedule.schedule(steps)(step)) for step in {0, steps // 2, steps - 1}])
    assert np.isfinite(rates).all()
    assert (rates > 0).all()


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=named)
def test_an_optimizer_descends_and_keeps_shapes_and_dtypes(optimizer):
    params = {"blocks": {"w": jnp.ones((2, 3, 4))}, "scale": jnp.ones(3)}
    transformation, schedule = built(optimizer, 10)
    state = transformation.init(params)
    updates, after = updated(transformation, jax.tree.map(jnp.ones_like, params), params)
    jax.tree.map(lambda update, leaf: np.testing.assert_array_less(update, 0 * leaf), updates, params)
    shapes = lambda tree: [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]  # noqa: E731
    assert shapes(updates) == shapes(params)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert shapes(after) == shapes(state)
    assert np.isfinite(float(schedule(0)))


@pytest.mark.parametrize("example", [*SCHEDULES.values(), *OPTIMIZERS.values()], ids=named)
def test_equal_settings_are_equal_values(example):
    assert (dataclasses.replace(example), hash(dataclasses.replace(example))) == (example, hash(example))
    assert list(getattr(example, "problems", list)()) == []


@pytest.mark.parametrize("make", [WarmupLinear, WarmupCosine])
def test_schedules_rise_to_the_peak_and_fall_to_the_floor(make):
    schedule = make(peak=1e-3, warmup=0.1, floor=0.1).schedule(100)
    rates = np.array([float(schedule(step)) for step in range(100)])
    assert rates[0] == pytest.approx(1e-4)
    assert rates.argmax() in (9, 10)
    assert rates.max() == pytest.approx(1e-3)
    assert (np.diff(rates[:10]) > 0).all()
    assert (np.diff(rates[10:]) < 0).all()
    assert float(schedule(100)) == pytest.approx(1e-4)


@pytest.mark.parametrize("make", [WarmupLinear, WarmupCosine])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_very_short_fits_have_positive_rates(make, steps):
    schedule = make(peak=1.0, warmup=0.5).schedule(steps)
    assert all(0 < float(schedule(step)) <= 1 for step in range(steps))


def test_no_warmup_and_floor_1_is_constant():
    schedule = WarmupLinear(peak=0.5, warmup=0.0, floor=1.0).schedule(10)
    assert [float(schedule(step)) for step in range(10)] == [0.5] * 10


def test_adamw_is_clipped_adam_with_decay_on_matrices_only():
    params = {"blocks": {"w": jnp.ones((2, 3, 3)), "norm": jnp.ones((2, 3))}, "scale": jnp.ones(3)}
    spec = AdamW(WarmupLinear(peak=0.1, warmup=0.0, floor=1.0), weight_decay=0.5, clip=1.0)
    optimizer, _ = spec.build(10)
    zero = {"blocks": {"w": jnp.zeros((2, 3, 3)), "norm": jnp.zeros((2, 3))}, "scale": jnp.zeros(3)}
    updates, _ = updated(optimizer, zero, params)
    np.testing.assert_allclose(updates["blocks"]["w"], -0.05, rtol=1e-6)  # −rate · decay · weight
    np.testing.assert_array_equal(updates["blocks"]["norm"], 0)
    np.testing.assert_array_equal(updates["scale"], 0)


def test_adamw_matches_optax_below_the_clip():
    params = {"w": jnp.arange(4.0).reshape(2, 2)}
    grads = {"w": jnp.full((2, 2), 0.1)}
    ours, _ = AdamW(WarmupLinear(peak=0.1, warmup=0.0, floor=1.0)).build(10)
    theirs = optax.adamw(0.1, weight_decay=0.0)
    mine, _ = updated(ours, grads, params)
    reference, _ = updated(theirs, grads, params)
    np.testing.assert_allclose(mine["w"], reference["w"], rtol=1e-6)


def test_gradient_descent_is_the_gradient_times_the_rate():
    optimizer, schedule = GradientDescent(0.25).build(3)
    updates, _ = updated(optimizer, {"w": jnp.ones(2)}, {"w": jnp.zeros(2)})
    np.testing.assert_array_equal(updates["w"], [-0.25, -0.25])
    assert float(schedule(2)) == 0.25


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (WarmupLinear(peak=0.0), "peak"),
        (WarmupLinear(peak=1.0, warmup=1.5), "warmup"),
        (WarmupCosine(peak=1.0, floor=-0.1), "floor"),
        (AdamW(WarmupLinear(peak=1.0), b1=1.0), "b1"),
        (AdamW(WarmupLinear(peak=1.0), clip=0.0), "clip"),
        (GradientDescent(0.0), "learning_rate"),
    ],
)
def test_impossible_settings_are_named(bad, word):
    assert any(word in problem for problem in bad.problems())


@dataclasses.dataclass(frozen=True)
class Halved:
    """A schedule of one's own: half the rate after every step."""

    start: float = 1.0

    def schedule(self, steps):
        return lambda step: self.start * 0.5**step


@dataclasses.dataclass(frozen=True)
class Signs:
    """An optimizer of one's own, with a schedule of one's own: sign descent."""

    learning_rate: Schedule = Halved()

    def build(self, steps):
        schedule = self.learning_rate.schedule(steps)
        return optax.chain(optax.scale_by_sign(), optax.scale_by_learning_rate(schedule)), schedule


@dataclasses.dataclass(frozen=True)
class Settings:
    """Fields of both contracts, as an experiment and an optimizer have them."""

    optimizer: Optimizer = Signs()
    schedule: Schedule = Halved()


def test_optimizers_and_schedules_of_ones_own_are_components_like_any():
    validate(dataclasses.replace(load(TINY), optimizer=AdamW(Halved(0.1))))
    for own in (Settings(), Settings(AdamW(Halved()), WarmupLinear(1.0)), Settings(GradientDescent(0.1))):
        validate(own)
    for wrong, sentence in (
        (Settings(optimizer=Halved()), r"optimizer: expected an Optimizer, got Halved\(…\), which lacks build"),
        (Settings(schedule=Signs()), r"schedule: expected a Schedule, got Signs\(…\), which lacks schedule"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            validate(wrong)
