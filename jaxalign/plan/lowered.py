"""The programs of an experiment on a mesh of absent devices: training step, pass for log-probs or through a frozen
trunk, rollout, judges.

They are the ones that a run compiles, lowered from shapes and shardings alone: no array is made.
"""

import dataclasses

import jax

from jaxalign.contracts.extras import extras_of
from jaxalign.experiment import Experiment
from jaxalign.machine import Machine, on
from jaxalign.mesh.program import Program, Work
from jaxalign.mesh.sharding import bytes_per_device, row_sharding
from jaxalign.models.decoder import DecoderConfig
from jaxalign.models.low_rank import frozen, head_alone, trained
from jaxalign.plan.judges import judges
from jaxalign.programs import groups_a_microbatch, training
from jaxalign.training.features import BRANCHES, WIDTHS, reading
from jaxalign.training.logps import scoring
from jaxalign.training.rows import RowShape, Sizes, abstract_batch
from jaxalign.types import Batch


def programs(experiment: Experiment, machine: Machine, sizes: Sizes) -> tuple[Program, ...]:
    """All programs of an iteration, from the most expensive on."""
    fitted: tuple[Program, ...]
    if head_alone(machine.model.abstract()):
        fitted = (_train_head(experiment, machine, sizes), _features(machine, sizes))
    elif machine.model.config.outputs:  # a score model has no log-probs
        fitted = (_train(experiment, machine, sizes),)
    else:
        fitted = (_train(experiment, machine, sizes), _logp(machine, sizes, experiment.fit.scored_groups_a_row))
    return (
        *fitted,
        *experiment.feedback.programs(machine),
        *(each.program for each in judges(experiment, machine)),
    )


def _train(experiment: Experiment, machine: Machine, sizes: Sizes) -> Program:
    shape = sizes.shared(experiment.fit.groups_a_row)
    count = experiment.fit.batch_size // shape.groups
    tokens, scored = count * shape.row, count * shape.scored
    stored, groups = experiment.reference.stored(experiment.loss.needs), groups_a_microbatch(experiment)
    logged = experiment.fit.max_kl is not None
    rows = abstract_batch(shape, groups, stored, _objectives(experiment), sizes.responses, logged=logged)
    return _step(experiment, machine, rows, Work(tokens, tokens, scored, shape.row, ()))


def _train_head(experiment: Experiment, machine: Machine, sizes: Sizes) -> Program:
    """Of features that are known: a row is one token, which nothing reads."""
    answers, groups = experiment.fit.batch_size * sizes.responses, groups_a_microbatch(experiment)
    config, objectives = machine.model.config, _objectives(experiment)
    assert isinstance(config, DecoderConfig), "a table has no trunk"
    each = experiment.fit.groups_a_row
    shape = RowShape.holding(1, 1, 1)
    shape = shape if each == 1 else shape.shared(each, each * sizes.responses)
    rows = abstract_batch(shape, groups, (), objectives, sizes.responses, config.width)
    program = _step(experiment, machine, rows, Work(answers, 0, answers, 1, ()))
    # the step does not read the trunk, and the run holds it all the while
    return dataclasses.replace(program, resident=program.resident + bytes_per_device(frozen(machine.abstract)))


def _step(experiment: Experiment, machine: Machine, rows: Batch, work: Work) -> Program:
    """The training step on microbatches like `rows`, whose `work` says nothing of passes yet."""
    accumulate, params = machine.placement.accumulate, machine.abstract
    made = training(experiment, machine, steps=1000)
    live = experiment.reference.live(experiment.loss.needs)
    again = accumulate > 1 and "batch" in extras_of(experiment.loss)  # see training.whole_batch
    batches = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            (accumulate, *leaf.shape), leaf.dtype, sharding=row_sharding(machine.mesh, leading=1)
        ),
        rows,
    )
    passes = ("train", *["backward"] * (_objectives(experiment) - 1), *["forward"] * (len(live) + again))
    # The outer loop holds the policy that the fit began with, and the one that spoke where that looked ahead.
    held = bytes_per_device(trained(params)) * (2 if experiment.step_rule.period > 1 else 1)
    arguments = (made.abstract, frozen(params), dict(made.references), batches)
    return Program(
        "train", made.step, arguments, dataclasses.replace(work, passes=passes, microbatches=accumulate), held
    )


def _objectives(experiment: Experiment) -> int:
    return experiment.combiner.objectives or 1


def _features(machine: Machine, sizes: Sizes) -> Program:
    """The pass through a frozen trunk, as if no two groups had a prompt or an answer in common."""
    count, answers = machine.features.batch_size, sizes.responses * sizes.response
    shape = RowShape.holding(sizes.prompt + answers, answers, sizes.response, WIDTHS)
    batch = abstract_batch(shape, count, (), responses=BRANCHES)
    rows = jax.tree.map(lambda leaf: on(leaf, row_sharding(machine.mesh)), batch)
    work = Work(count * shape.row, count * shape.row, 0, shape.row, ("forward",))
    return Program("features", reading(machine.model, machine.mesh, machine.flags), (machine.abstract, rows), work)


def _logp(machine: Machine, sizes: Sizes, groups_a_row: int) -> Program:
    count, shape = machine.scorer.batch_size, sizes.shared(groups_a_row)
    batch = abstract_batch(shape, count * groups_a_row, (), responses=sizes.responses)
    rows = jax.tree.map(lambda leaf: on(leaf, row_sharding(machine.mesh)), batch)
    tokens = count * shape.row
    work = Work(tokens, tokens, count * shape.scored, shape.row, ("forward",))
    return Program("logp", scoring(machine.model, machine.mesh, machine.flags), (machine.abstract, rows), work)
