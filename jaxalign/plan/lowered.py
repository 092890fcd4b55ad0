"""The programs of an experiment on a mesh of absent devices: training step, pass for log-probs or through a frozen
trunk, what certificates read, losses of what no fit trains on, rollouts, judges.

They are the ones that a run compiles, lowered from shapes and shardings alone: no array is made.
"""

import dataclasses

import jax

from jaxalign.contracts.extras import extras_of
from jaxalign.contracts.votes import annotators_of
from jaxalign.experiment import Experiment
from jaxalign.machine import Machine
from jaxalign.mesh.program import Program, Work
from jaxalign.mesh.sharding import bytes_per_device, on, row_sharding
from jaxalign.models.low_rank import frozen, head_alone
from jaxalign.plan.abstract import featured, stacked
from jaxalign.plan.answers import answers
from jaxalign.plan.evaluation import evaluation_rollouts
from jaxalign.plan.judges import judges
from jaxalign.plan.left_out import left_out
from jaxalign.programs import beside_a_fit, beside_scoring, groups_a_microbatch, planned_step, training
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
        fitted = (_train(experiment, machine, sizes), _logp(experiment, machine, sizes))
    return (
        *fitted,
        *answers(experiment, machine),
        *left_out(experiment, machine, sizes),
        *experiment.feedback.programs(machine),
        *evaluation_rollouts(experiment, machine),
        *(each.program for each in judges(experiment, machine)),
    )


def _train(experiment: Experiment, machine: Machine, sizes: Sizes) -> Program:
    planned = planned_step(experiment, machine, sizes)
    count, shape = planned.rows, planned.shape
    tokens, scored = count * shape.row, count * shape.scored
    stored, groups = experiment.reference.stored(experiment.loss.needs), count // machine.placement.accumulate
    groups *= shape.groups
    logged, edited = experiment.fit.max_kl is not None, "edited" in extras_of(experiment.loss)
    annotators = _annotators(experiment)
    rows = abstract_batch(shape, groups, stored, annotators, sizes.responses, logged=logged, edited=edited)
    return _step(experiment, machine, rows, Work(tokens, tokens, scored, shape.row, ()))


def _train_head(experiment: Experiment, machine: Machine, sizes: Sizes) -> Program:
    """Of features that are known."""
    answers, groups = experiment.fit.batch_size * sizes.responses, groups_a_microbatch(experiment)
    rows = featured(machine, sizes, experiment.fit.rows.groups, groups, _annotators(experiment))
    program = _step(experiment, machine, rows, Work(answers, 0, answers, 1, ()))
    # the step does not read the trunk, and the run holds it all the while
    return dataclasses.replace(program, resident=program.resident + bytes_per_device(frozen(machine.abstract)))


def _step(experiment: Experiment, machine: Machine, rows: Batch, work: Work) -> Program:
    """The training step on microbatches like `rows`, whose `work` says nothing of passes yet."""
    accumulate, params = machine.placement.accumulate, machine.abstract
    made = training(experiment, machine, steps=1000)
    live = experiment.reference.live(experiment.loss.needs)
    again = accumulate > 1 and "batch" in extras_of(experiment.loss)  # see training.whole_batch
    batches = stacked(machine, rows, accumulate)
    passes = ("train", *["backward"] * (_objectives(experiment) - 1), *["forward"] * (len(live) + again))
    held = beside_a_fit(experiment, machine)
    arguments = (made.abstract, frozen(params), dict(made.references), batches)
    return Program(
        "train", made.step, arguments, dataclasses.replace(work, passes=passes, microbatches=accumulate), held
    )


def _objectives(experiment: Experiment) -> int:
    return experiment.combiner.objectives or 1


def _annotators(experiment: Experiment) -> int:
    """Columns of votes, as far as anybody reads them."""
    return experiment.combiner.objectives or annotators_of(experiment.loss)


def _features(machine: Machine, sizes: Sizes) -> Program:
    """The pass through a frozen trunk, as if no two groups had a prompt or an answer in common."""
    count, answers = machine.features.batch_size, sizes.responses * sizes.response
    shape = RowShape.holding(sizes.prompt + answers, answers, sizes.response, WIDTHS)
    batch = abstract_batch(shape, count, (), responses=BRANCHES)
    rows = jax.tree.map(lambda leaf: on(leaf, row_sharding(machine.mesh)), batch)
    work = Work(count * shape.row, count * shape.row, 0, shape.row, ("forward",))
    return Program("features", reading(machine.model, machine.mesh, machine.flags), (machine.abstract, rows), work)


def _logp(experiment: Experiment, machine: Machine, sizes: Sizes) -> Program:
    count, shape = machine.scorer.batch_size, experiment.fit.scored.full(sizes)
    batch = abstract_batch(shape, count * shape.groups, (), responses=sizes.responses)
    rows = jax.tree.map(lambda leaf: on(leaf, row_sharding(machine.mesh)), batch)
    tokens = count * shape.row
    work = Work(tokens, tokens, count * shape.scored, shape.row, ("forward",))
    scored = scoring(machine.model, machine.mesh, machine.flags)
    return Program("logp", scored, (machine.abstract, rows), work, beside_scoring(experiment, machine))
