"""The compiled programs of a run, with shapes and places of all that goes through them: what a session runs and what
`jaxalign plan` compiles for machines that are not here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from jaxalign.contracts.extras import extras_of
from jaxalign.contracts.moving import Moving
from jaxalign.contracts.traced import built, counts_itself
from jaxalign.errors import ConfigError
from jaxalign.experiment import Experiment
from jaxalign.machine import Machine, on
from jaxalign.mesh.sharding import bytes_per_device, replicated
from jaxalign.models.low_rank import trained
from jaxalign.models.model import Model
from jaxalign.references.blended import Blended
from jaxalign.training.pair_scores import PairScorer
from jaxalign.training.row_plan import plan_rows
from jaxalign.training.step import Step, TrainState, init_state, make_step
from jaxalign.training.views import View, view_of
from jaxalign.types import Batch, Params

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


def training(experiment: Experiment, machine: Machine, steps: int) -> Training:
    """The programs of a fit of `steps` steps. Optimizer state lies as the parameters it belongs to."""
    model, mesh, placement = machine.model, machine.mesh, machine.placement
    optimizer, schedule = built(experiment.optimizer, steps * schedule_fits(experiment))
    live, moving = experiment.reference.live(experiment.loss.needs), None
    own: tuple[str, ...] = ()
    if isinstance(experiment.reference, Moving):
        moving, own, live = experiment.reference, live, ()

    def begin(policy: Params, references: Mapping[str, Params], origin: Int[Array, ""]) -> TrainState:
        moved = {role: references[role] for role in own}
        return init_state(policy, optimizer, moved, experiment.loss, jnp.asarray(origin, jnp.int32))

    shardings = trained(machine.shardings)
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

    view = view_of(model, experiment.loss, experiment.feedback.responses)
    step = make_step(view, optimizer, schedule, experiment.combiner, moving, experiment.fit.max_kl)
    if placement.optimizer_memory != "device" or ((live or own) and placement.reference_memory != "device"):
        step = _fetching(step, place(moments, shardings), dict.fromkeys(live, shardings), place(kept, far))
    return Training(
        step=jax.jit(
            step,
            donate_argnums=0,
            out_shardings=(place(kept, far), None),
            compiler_options=machine.flags,
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
    each, parts = scored_together(experiment, view.loss)
    plan = partial(plan_rows, groups_a_row=each, shapes=experiment.fit.row_shapes)
    return PairScorer(view, machine.mesh, rows_a_microbatch(experiment), machine.flags, plan, parts)


def scored_together(experiment: Experiment, loss: object) -> tuple[int, int]:
    """Groups a row, and microbatches whose groups the loss sees together, where nothing is trained on them."""
    if "batch" in extras_of(loss):
        return experiment.fit.groups_a_row, experiment.placement.accumulate
    return experiment.fit.scored_groups_a_row, 1


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
    region around a policy that no step sees as it is: before there is a fit, hours earlier."""
    check_optimizer(experiment)
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


def rows_a_microbatch(experiment: Experiment) -> int:
    """Rows that these groups lie in."""
    return groups_a_microbatch(experiment) // experiment.fit.groups_a_row


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
    fit, size = experiment.fit, rows_a_microbatch(experiment)
    if size % shards:
        shared = f" / fit.groups_a_row {fit.groups_a_row}" if fit.groups_a_row > 1 else ""
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
