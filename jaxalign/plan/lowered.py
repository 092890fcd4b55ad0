"""The programs of an experiment on a mesh of absent devices: training step, rollout, log-prob pass, judges.

They are the ones that a run compiles, lowered from shapes and shardings alone: no array is made.
"""

import jax

from jaxalign.experiment import Experiment
from jaxalign.machine import Machine, on
from jaxalign.mesh.program import Program, Work
from jaxalign.mesh.sharding import bytes_per_device, row_sharding
from jaxalign.models.low_rank import frozen, trained
from jaxalign.plan.judges import judges
from jaxalign.programs import groups_a_microbatch, training
from jaxalign.training.logps import scoring
from jaxalign.training.rows import Sizes, abstract_batch


def programs(experiment: Experiment, machine: Machine, sizes: Sizes) -> tuple[Program, ...]:
    """All programs of an iteration, from the most expensive on."""
    return (
        _train(experiment, machine, sizes),
        # a score model has no log-probs; what a frozen trunk makes of answers is planned as if it were trained
        *(() if machine.model.config.outputs else (_logp(machine, sizes),)),
        *experiment.feedback.programs(machine),
        *(each.program for each in judges(experiment, machine)),
    )


def _train(experiment: Experiment, machine: Machine, sizes: Sizes) -> Program:
    fit, accumulate, params = experiment.fit, machine.placement.accumulate, machine.abstract
    made = training(experiment, machine, steps=1000)
    stored = experiment.reference.stored(experiment.loss.needs)
    objectives = experiment.combiner.objectives or 1
    rows = abstract_batch(sizes.rows, groups_a_microbatch(experiment), stored, objectives, sizes.responses)
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
    batch = abstract_batch(sizes.rows, count, (), responses=sizes.responses)
    rows = jax.tree.map(lambda leaf: on(leaf, row_sharding(machine.mesh)), batch)
    tokens = count * sizes.rows.row
    work = Work(tokens, tokens, count * sizes.rows.scored, sizes.rows.row, ("forward",))
    return Program("logp", scoring(machine.model, machine.mesh, machine.flags), (machine.abstract, rows), work)
