"""Steps are read one late, each once and in order; what is not finite is told of no state that is kept."""

import jax.numpy as jnp
import pytest

from jaxalign.training.outcomes import Intake, Outcomes
from jaxalign.training.step import NotFinite


class Clock:
    """Shows what it is set to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def metrics(loss: float = 1.0) -> dict:
    return {"loss": jnp.float32(loss), "grad_norm": jnp.float32(2.0), "update_norm": jnp.float32(0.5)}


@pytest.fixture
def told():
    return []


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def outcomes(told, clock):
    return Outcomes(lambda *what: told.append(what), clock=clock)


def intake(asked: float = 0.0, waited: float = 0.0) -> Intake:
    return Intake(groups=5, tokens=75, cells=100, asked=asked, waited=waited)


def test_a_step_is_told_of_when_the_next_one_is_under_way(outcomes, told, clock):
    outcomes.follow(7, metrics(0.1), intake())
    assert told == []
    clock.now = 1.0
    outcomes.follow(8, metrics(0.25), intake())
    assert [(step, seen["loss"]) for step, seen, _ in told] == [(7, pytest.approx(0.1))]
    clock.now = 2.0
    outcomes.settle()
    outcomes.settle()
    assert [(step, seen["loss"]) for step, seen, _ in told][1:] == [(8, 0.25)]


def test_a_step_lasts_from_the_end_of_the_one_before_and_not_while_a_checkpoint_is_written(outcomes, told, clock):
    for step, (asked, dispatched) in enumerate([(10.0, 11.0), (11.5, 14.0), (14.5, 16.0)]):
        clock.now = dispatched
        outcomes.follow(step, metrics(), intake(asked, waited=asked / 100))
    clock.now = 20.0
    outcomes.settle()
    clock.now = 31.0  # a checkpoint took 10 s, and the next batch was asked for at 30
    outcomes.follow(3, metrics(), intake(asked=30.0))
    clock.now = 33.0
    outcomes.settle()
    seconds = [perf["perf/step_seconds"] for _, _, perf in told]
    assert seconds == [14.0 - 10.0, 16.0 - 14.0, 20.0 - 16.0, 33.0 - 30.0]
    assert [perf["perf/host_seconds"] for _, _, perf in told][:3] == [0.1, 0.115, 0.145]
    assert told[0][2]["perf/padding_fraction"] == 0.25
    assert told[0][2]["perf/tokens_per_group"] == 20
    assert told[0][2]["perf/tokens_per_s_per_chip"] == pytest.approx(75 / 4 / 8)


@pytest.mark.parametrize("name", ["loss", "grad_norm", "update_norm"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_raised_with_its_own_step_and_never_told(outcomes, told, clock, name, value):
    outcomes.follow(0, metrics(), intake())
    clock.now = 1.0
    outcomes.follow(1, metrics() | {name: jnp.float32(value)}, intake())
    with pytest.raises(NotFinite, match=rf"{name} is {value} at step 1"):
        outcomes.follow(2, metrics(), intake())
    assert [step for step, _, _ in told] == [0]
