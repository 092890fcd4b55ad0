"""Programs that a process makes once: equal settings share them, whatever they are given, and others do not."""

import dataclasses

import jax
import numpy as np
import pytest
from made_models import ONE, tiny
from made_runs import tiny_lm

from jaxalign.experiment import Experiment
from jaxalign.losses.inpo import INPO
from jaxalign.machine import Machine, Placement
from jaxalign.mesh.once import forget, once
from jaxalign.models.lora import LoRA
from jaxalign.models.low_rank import trained
from jaxalign.programs import training
from jaxalign.rollouts.contract import Task
from jaxalign.rollouts.lockstep import generating
from jaxalign.rollouts.samplers import Temperature
from jaxalign.training.logps import scoring


def step_of(experiment: Experiment, steps: int = 2):
    return training(experiment, Machine(experiment.model.open(), experiment.placement, experiment.seed), steps).step


def test_models_of_one_function_are_equal_wherever_their_parameters_come_from() -> None:
    one = tiny()
    other = dataclasses.replace(one, source="elsewhere", read=lambda shapes, place: {})
    assert one == other
    assert hash(one) == hash(other)
    assert one.on(ONE, Placement().mesh.rules, "full") != one
    assert dataclasses.replace(one, dropout=0.1) != one
    assert dataclasses.replace(one, config=dataclasses.replace(one.config, softcap=3.0)) != one


def test_runs_of_one_config_share_their_programs() -> None:
    experiment = tiny_lm()
    assert step_of(experiment) is step_of(dataclasses.replace(experiment, seed=7))
    assert step_of(experiment) is not step_of(experiment, steps=3)
    assert step_of(experiment) is not step_of(dataclasses.replace(experiment, loss=INPO(eta=0.4, tau=0.05)))


def test_adapters_of_another_rank_are_another_program() -> None:
    """Axes and definitions are the same, shapes are not."""
    experiment = tiny_lm()
    sources = {rank: LoRA(experiment.model, rank=rank).open() for rank in (2, 3)}
    assert sources[2] != sources[3]
    for model in sources.values():
        machine = Machine(model, Placement(), 0)
        found, wanted = training(experiment, machine, 2).abstract.params, trained(machine.abstract)
        assert [leaf.shape for leaf in jax.tree.leaves(found)] == [leaf.shape for leaf in jax.tree.leaves(wanted)]


@pytest.mark.parametrize("make", [scoring, lambda *arguments: generating(arguments[0], TASK, *arguments[1:])])
def test_options_and_meshes_tell_programs_apart(make) -> None:
    model = tiny()
    assert make(model, ONE, None) is make(tiny(), ONE, None)
    assert make(model, ONE, {"xla_cpu_enable_fast_min_max": True}) is make(
        model, ONE, {"xla_cpu_enable_fast_min_max": True}
    )
    assert make(model, ONE, {"xla_cpu_enable_fast_min_max": True}) is not make(model, ONE, None)


def test_what_cannot_be_hashed_is_made_anew_and_forgotten_is_forgotten() -> None:
    made = once(lambda value: [value])
    assert made(1) is made(1)
    assert made({"a": 1}) is made({"a": 1})
    assert made(np.zeros(2)) is not made(np.zeros(2))
    before = made(1)
    forget()
    assert made(1) is not before


TASK = Task(2, 4, Temperature(1.0), (5,))
