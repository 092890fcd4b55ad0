"""The compiled programs of a run, with shapes and places of all that goes through them: what a session runs and what
`jaxalign plan` compiles for machines that are not here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int

from jaxalign.contracts.extras import extras_of
from jaxalign.contracts.moving import Moving
from jaxalign.contracts.traced import built, counts_itself
from jaxalign.data.groups import TrainingGroups
from jaxalign.data.order import GroupOrder
from jaxalign.errors import ConfigError
from jaxalign.experiment import Experiment
from jaxalign.machine import Machine, Placement
from jaxalign.mesh.flags import Options
from jaxalign.mesh.once import once
from jaxalign.mesh.sharding import bytes_per_device, full_rows, on, param_shardings, replicated, row_shards
from jaxalign.models.low_rank import head_alone, trained
from jaxalign.models.model import Model
from jaxalign.references.blended import Blended
from jaxalign.training.pair_scores import PairScorer
from jaxalign.training.row_plan import costs_of
from jaxalign.training.row_rule import Planned, Steps
from jaxalign.training.rows import Sizes
from jaxalign.training.step import Step, TrainState, init_state, make_step
from jaxalign.training.views import View, view_of
from jaxalign.types import Batch, Combiner, Optimizer, Params, Reference

PROBED = 1000
"""Steps for which an optimizer is built before there is a fit."""


@dataclass(frozen=True)
class Training:
    """A fit's step, its first state as a function of the policy, of references that move with it and of the schedule's
    step at which it begins, and shapes, dtypes and shardings of that state and of live references that stay, by role;
    `refer` makes of a policy what its reference is."""

    step: Step
    begin: Callable[[Params, Mapping[str, Params], Any], TrainState]
    abstract: TrainState
    references: Mapping[str, Params]
    refer: Callable[[Params], Params]

    def reference(self, role: str, policy: Params) -> Params:
        """A live reference, in its place."""
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.references[role])
        return jax.device_put(self.refer(policy), shardings)


@dataclass(frozen=True)
class Recipe:
    """What the programs of a fit depend on, besides the machine."""

    view: View[Any]
    reference: Reference
    combiner: Combiner
    optimizer: Optimizer
    steps: int
    """that the schedule of the learning rate spans"""
    max_kl: float | None


def training(experiment: Experiment, machine: Machine, steps: int) -> Training:
    """The programs of a fit of `steps` steps. Optimizer state lies as the parameters it belongs to."""
    recipe = Recipe(
        view_of(machine.model, experiment.loss, experiment.feedback.responses),
        experiment.reference,
        experiment.combiner,
        experiment.optimizer,
        steps * schedule_fits(experiment),
        experiment.fit.max_kl,
    )
    return _training(recipe, machine.mesh, machine.placement, machine.flags)


@once
def _training(recipe: Recipe, mesh: jax.sharding.Mesh, placement: Placement, flags: Options | None) -> Training:
    view, model = recipe.view, recipe.view.model
    optimizer, schedule = built(recipe.optimizer, recipe.steps)
    live, moving = recipe.reference.live(view.loss.needs), None
    own: tuple[str, ...] = ()
    if isinstance(recipe.reference, Moving):
        moving, own, live = recipe.reference, live, ()

    def begin(policy: Params, references: Mapping[str, Params], origin: Int[Array, ""]) -> TrainState:
        moved = {role: references[role] for role in own}
        return init_state(policy, optimizer, moved, view.loss, jnp.asarray(origin, jnp.int32))

    shardings = trained(param_shardings(mesh, placement.mesh.rules, model.abstract(), model.axes))
    state = jax.eval_shape(begin, model.abstract(), dict.fromkeys(own, model.abstract()), jnp.int32(0))
    moments = optax.tree_utils.tree_map_params(
        optimizer,
        lambda _, sharding: sharding,
        state.opt_state,
        shardings,
        transform_non_params=lambda _: replicated(mesh),
    )
    kept = optax.tree_utils.tree_map_params(
        optimizer, lambda _, sharding: sharding.with_memory_kind(placement.optimizer_memory), moments, shardings
    )
    refer = jax.jit(lambda policy: trained(model.computing(policy)), out_shardings=shardings)
    shape = jax.eval_shape(refer, model.abstract())
    kept_reference = jax.tree.map(
        lambda leaf, place: on(leaf, place.with_memory_kind(placement.reference_memory)), shape, shardings
    )
    far = jax.tree.map(lambda place: place.with_memory_kind(placement.reference_memory), shardings)

    def place(moments: Any, references: Any) -> Any:
        memory = dict.fromkeys(state.memory, replicated(mesh))
        return _state(state, replicated(mesh), shardings, moments, dict.fromkeys(own, references), memory)

    step = make_step(view, optimizer, schedule, recipe.combiner, moving, recipe.max_kl)
    if placement.optimizer_memory != "device" or ((live or own) and placement.reference_memory != "device"):
        step = _fetching(step, place(moments, shardings), dict.fromkeys(live, shardings), place(kept, far))
    return Training(
        step=jax.jit(
            step,
            donate_argnums=0,
            out_shardings=(place(kept, far), None),
            compiler_options=flags,
        ),
        begin=jax.jit(begin, out_shardings=place(kept, far)),
        abstract=jax.tree.map(on, state, place(kept, far)),
        references=dict.fromkeys(live, kept_reference),
        refer=refer,
    )


def pair_scorer(experiment: Experiment, machine: Machine, view: View[Any] | None = None) -> PairScorer:
    """What scores groups that a fit does not see by its loss, or by that of a `view`: in batches of its steps' rows, or
    of as many fuller ones where the loss sees no group beside another."""
    view = view or view_of(machine.model, experiment.loss, experiment.feedback.responses)
    fit, size = experiment.fit, rows_scored(experiment, view.loss)
    if "batch" in extras_of(view.loss):
        plan = partial(fit.rows.together, batch_size=fit.batch_size, multiple=multiple_of(experiment, machine))
        return PairScorer(view, machine.mesh, size, machine.flags, plan, experiment.placement.accumulate)
    return PairScorer(
        view, machine.mesh, size, machine.flags, partial(fit.scored.passes, size=full_rows(machine.mesh, size))
    )


def rows_scored(experiment: Experiment, loss: object) -> int:
    """Rows that are scored by `loss` together where nothing is trained on them: as many as a microbatch of a step has,
    or as are scored for references where only the groups can tell."""
    fit, placement = experiment.fit, experiment.placement
    rule = fit.rows if "batch" in extras_of(loss) else fit.scored
    rows = None if rule.rows_a_step(fit.batch_size) is None else fit.rows.rows_a_step(fit.batch_size)
    return placement.score_batch_size if rows is None else rows // placement.accumulate


def steps_of(
    experiment: Experiment, machine: Machine, iteration: int, groups: TrainingGroups
) -> tuple[GroupOrder, Steps]:
    """The batches of an iteration's fit in their order, by numbers of units, and the rows of each step."""
    spec = experiment.fit
    units = spec.rows.units(groups)
    seed = int(jax.random.bits(machine.key("order", iteration), dtype=np.uint32))
    costs = costs_of(groups, units.rows) if spec.batches == "level" else None
    order = GroupOrder(len(units.rows), spec.batch_size // spec.rows.groups, spec.epochs, seed, costs)
    return order, spec.rows.steps(groups, units, order, multiple_of(experiment, machine))


def planned_scoring(experiment: Experiment, machine: Machine, sizes: Sizes, loss: object) -> Planned:
    """Rows, all microbatches', that `loss` is asked of at once where nothing is trained on them."""
    if "batch" in extras_of(loss):
        return planned_step(experiment, machine, sizes)
    return Planned(full_rows(machine.mesh, rows_scored(experiment, loss)), experiment.fit.scored.full(sizes))


def multiple_of(experiment: Experiment, machine: Machine) -> int:
    """What the rows of a step are a multiple of: all its microbatches, and in these all devices, have as many."""
    return experiment.placement.accumulate * row_shards(machine.mesh)


def planned_step(experiment: Experiment, machine: Machine, sizes: Sizes) -> Planned:
    """Rows of a step of the fit, where all groups are as long as they may be."""
    rule = experiment.fit.rows
    return rule.planned(sizes, experiment.fit.batch_size // rule.groups, multiple_of(experiment, machine))


def beside_a_fit(experiment: Experiment, machine: Machine) -> int:
    """Bytes on a device of what the outer loop holds: the policy that the fit began with, and the one that spoke where
    that looked ahead."""
    return bytes_per_device(trained(machine.abstract)) * (2 if experiment.step_rule.period > 1 else 1)


def beside_scoring(experiment: Experiment, machine: Machine) -> int:
    """Bytes on a device of policies that the outer loop holds while another one is scored: an anchor that is none of
    them."""
    swaps = experiment.iterations > 1 and experiment.swap_every != 1
    other = "anchor" in experiment.loss.needs and (swaps or isinstance(experiment.reference, Blended))
    return beside_a_fit(experiment, machine) if other else 0


def check_steps(experiment: Experiment, model: Model) -> None:
    """Raises BrokenContract or ConfigError for an optimizer that cannot make the fits' steps, ConfigError for a trust
    region around a policy that no step sees as it is, or for rows to be filled with groups that have no tokens: before
    there is a fit, hours earlier."""
    check_optimizer(experiment)
    rows, size = (experiment.fit.rows, experiment.fit.scored), experiment.fit.batch_size
    if head_alone(model.abstract()) and any(rule.rows_a_step(size) is None for rule in rows):
        raise ConfigError(
            "fit.rows: features of a frozen trunk are read once, and a head learns from these without rows to fill; "
            "take OnePrompt"
        )
    if experiment.fit.max_kl is not None and model.dropout:
        raise ConfigError(
            f"fit.max_kl goes by the policy that a step sees, and dropout {model.dropout} of its adapters makes it "
            "another one, far from the one that sampled before any step is taken: set model.dropout to 0"
        )


def check_optimizer(experiment: Experiment) -> None:
    """Raises BrokenContract for an optimizer that cannot be built, ConfigError for one that would lose its place in a
    schedule."""
    built(experiment.optimizer, PROBED)
    fit = experiment.fit
    if (fit.schedule, fit.moments) != ("fit", "fresh") and counts_itself(experiment.optimizer):
        raise ConfigError(
            f"optimizer {type(experiment.optimizer).__name__}: counts the steps of its schedule by itself and would be "
            "at a wrong one; fit.schedule 'run' and fit.moments 'kept' take one that reads the step that it is "
            "told (jaxalign.training.optim.downhill)"
        )


def schedule_fits(experiment: Experiment) -> int:
    """Fits that the schedule of the learning rate spans."""
    return experiment.iterations if experiment.fit.schedule == "run" else 1


def groups_a_microbatch(experiment: Experiment) -> int:
    """Training groups that go through the step's forward and backward pass together, over all devices."""
    return experiment.fit.batch_size // experiment.placement.accumulate


def check_mesh(mesh: jax.sharding.Mesh, processes: int) -> None:
    """Raises ConfigError where some of so many processes have no device of the mesh."""
    reached = {device.process_index for device in mesh.devices.flat}
    if len(reached) < processes:
        raise ConfigError(
            f"placement.mesh: its {mesh.size} devices are those of {len(reached)} of {processes} processes; make it as "
            f"large as all {jax.device_count()} devices (-1 for one axis takes what is there)"
        )


def check_batches(experiment: Experiment, shards: int) -> None:
    """Raises ConfigError unless the rows of a microbatch divide over the `shards` that rows are split over."""
    fit = experiment.fit
    rows = fit.rows.rows_a_step(fit.batch_size)
    if rows is None:  # as many as the groups need, and empty ones beside them
        return
    size = rows // experiment.placement.accumulate
    if size % shards:
        shared = f" / fit.rows.groups {fit.rows.groups}" if fit.rows.groups > 1 else ""
        raise ConfigError(
            f"fit.batch_size {fit.batch_size} / placement.accumulate {experiment.placement.accumulate}{shared} is "
            f"{size} rows a microbatch, which must be a multiple of the {shards} shards that rows are split over "
            "(placement.mesh: slices · data · fsdp · expert)"
        )


def _state(state: TrainState, step: Any, params: Any, opt_state: Any, references: Any, memory: Any) -> Any:
    """A tree of shardings in the structure of `state`."""
    origin = step  # a number, and where numbers lie
    leaves = jax.tree.leaves((step, params, opt_state, references, memory, origin))
    return jax.tree.unflatten(jax.tree.structure(state), leaves)


def _fetching(step: Step, here: Any, references_here: Mapping[str, Any], kept: Any) -> Step:
    """`step` of a state and references that are kept in the memory of the host: fetched, and the state put back."""

    def run(
        state: TrainState, frozen: Params, references: Mapping[str, Params], batches: Batch
    ) -> tuple[TrainState, dict[str, Array]]:
        fetched = jax.device_put(references, dict(references_here))
        state, metrics = step(jax.device_put(state, here), frozen, fetched, batches)
        return jax.device_put(state, kept), metrics

    return run
