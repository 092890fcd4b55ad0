"""The programs of an experiment on a mesh of absent devices: the training step, the rollout, the log-prob pass.

They are the ones that a run compiles, lowered from shapes and shardings alone: no array is made.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxalign.experiment import Experiment
from jaxalign.machine import Machine, on
from jaxalign.mesh.rounding import rounded
from jaxalign.mesh.sharding import bytes_per_device, row_sharding
from jaxalign.models.low_rank import frozen, trained
from jaxalign.plan.target import Sizes
from jaxalign.programs import groups_a_microbatch, training
from jaxalign.rollouts.sample import PROMPT_BUCKET, Sample
from jaxalign.training.logps import scoring
from jaxalign.training.rows import abstract_batch


@dataclasses.dataclass(frozen=True)
class Work:
    """What one call of a program does, over all devices."""

    tokens: int
    """what its speed is counted in: tokens of the training rows, tokens drawn by a rollout"""
    rows_tokens: int
    """tokens that go through the layers"""
    scored: int
    """tokens that go through the head"""
    row: int
    """tokens that one attends to at most"""
    passes: tuple[str, ...]
    """"train" for forward and backward, "forward" or "backward" for one of them alone"""
    microbatches: int = 1
    """parts that the rows go through one after the other"""


@dataclasses.dataclass(frozen=True)
class Program:
    """A program, ready to be lowered."""

    name: str
    function: Any
    arguments: tuple[Any, ...]
    work: Work
    resident: int = 0
    """bytes that a run keeps on each device beside the arguments"""

    def lower(self) -> Any:
        """For the platform of the arguments' shardings."""
        platform = jax.tree.leaves(self.arguments)[0].sharding.mesh.devices.flat[0].platform
        lowering = {"gpu": "cuda"}.get(platform, platform)  # devices name the kind of machine, rules the vendor
        return self.function.trace(*self.arguments).lower(lowering_platforms=(lowering,))


def programs(experiment: Experiment, machine: Machine, sizes: Sizes) -> tuple[Program, ...]:
    """All programs of an iteration, from the most expensive on."""
    return (
        _train(experiment, machine, sizes),
        _logp(machine, sizes),
        _rollout(experiment, machine, sizes),
    )


def _train(experiment: Experiment, machine: Machine, sizes: Sizes) -> Program:
    fit, accumulate, params = experiment.fit, machine.placement.accumulate, machine.abstract
    made = training(experiment, machine, steps=1000)
    stored = experiment.reference.stored(experiment.loss.needs)
    objectives = experiment.combiner.objectives or 1
    rows = abstract_batch(sizes.rows, groups_a_microbatch(experiment), stored, objectives)
    batches = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            (accumulate, *leaf.shape), leaf.dtype, sharding=row_sharding(machine.mesh, leading=1)
        ),
        rows,
    )
    tokens, scored = fit.batch_size * sizes.rows.row, fit.batch_size * sizes.rows.scored
    passes = ("train", *["backward"] * (objectives - 1), *["forward"] * len(made.references))
    work = Work(tokens, tokens, scored, sizes.rows.row, passes, accumulate)
    held = bytes_per_device(trained(params))  # the outer loop holds the policy that the fit began with
    return Program("train", made.step, (made.abstract, frozen(params), dict(made.references), batches), work, held)


def _logp(machine: Machine, sizes: Sizes) -> Program:
    count = machine.scorer.batch_size
    rows = jax.tree.map(lambda leaf: on(leaf, row_sharding(machine.mesh)), abstract_batch(sizes.rows, count, ()))
    tokens = count * sizes.rows.row
    work = Work(tokens, tokens, count * sizes.rows.scored, sizes.rows.row, ("forward",))
    return Program("logp", scoring(machine.model, machine.mesh, machine.flags), (machine.abstract, rows), work)


def _rollout(experiment: Experiment, machine: Machine, sizes: Sizes) -> Program:
    spec, mesh = experiment.rollout, machine.mesh
    assert isinstance(spec, Sample)
    count = spec.prompts_a_batch(machine.placement.rollout_rows, mesh)
    width = rounded(sizes.prompt, PROMPT_BUCKET)
    place = row_sharding(mesh)
    inputs = (
        jax.ShapeDtypeStruct((count, width), jnp.int32, sharding=place),
        jax.ShapeDtypeStruct((count,), jnp.int32, sharding=place),
        on(jax.eval_shape(lambda: jax.random.split(jax.random.key(0), count)), place),
    )
    draw = spec.program(machine.model, mesh, machine.flags)
    drawn = count * spec.samples * spec.max_tokens
    work = Work(drawn, drawn + count * width, drawn, width + spec.max_tokens, ("forward",))
    return Program("rollout", draw, (machine.abstract, *inputs), work)
