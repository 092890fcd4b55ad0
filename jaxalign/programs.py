"""The compiled programs of a run, with shapes and places of all that goes through them: what a session runs and what
`jaxalign plan` compiles for machines that are not here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import optax
from jaxtyping import Array

from jaxalign.contracts.moving import Moving
from jaxalign.contracts.traced import built
from jaxalign.errors import ConfigError
from jaxalign.experiment import Experiment
from jaxalign.machine import Machine, on
from jaxalign.mesh.sharding import replicated
from jaxalign.models.low_rank import trained
from jaxalign.training.step import Step, TrainState, init_state, make_step
from jaxalign.training.views import view_of
from jaxalign.types import Batch, Params


@dataclass(frozen=True)
class Training:
    """A fit's step, its first state as a function of the policy and of references that move with it, and shapes, dtypes
    and shardings of that state and of live references that stay, by role; `refer` makes of a policy what its reference
    is."""

    step: Step
    begin: Callable[[Params, Mapping[str, Params]], TrainState]
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
    optimizer, schedule = built(experiment.optimizer, steps)
    live, moving = experiment.reference.live(experiment.loss.needs), None
    own: tuple[str, ...] = ()
    if isinstance(experiment.reference, Moving):
        moving, own, live = experiment.reference, live, ()

    def begin(policy: Params, references: Mapping[str, Params]) -> TrainState:
        return init_state(policy, optimizer, {role: references[role] for role in own}, experiment.loss)

    shardings = trained(machine.shardings)
    state = jax.eval_shape(begin, model.abstract(), dict.fromkeys(own, model.abstract()))
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
    step = make_step(view, optimizer, schedule, experiment.combiner, moving)
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


def groups_a_microbatch(experiment: Experiment) -> int:
    """Training groups that go through the step's forward and backward pass together, over all devices."""
    return experiment.fit.batch_size // experiment.placement.accumulate


def rows_a_microbatch(experiment: Experiment) -> int:
    """Rows that these groups lie in."""
    return groups_a_microbatch(experiment) // experiment.fit.groups_a_row


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
    return jax.tree.unflatten(jax.tree.structure(state), jax.tree.leaves((step, params, opt_state, references, memory)))


def _fetching(step: Step, here: Any, references_here: Mapping[str, Any], kept: Any) -> Step:
    """`step` of a state and references that are kept in the memory of the host: fetched, and the state put back."""

    def run(
        state: TrainState, frozen: Params, references: Mapping[str, Params], batches: Batch
    ) -> tuple[TrainState, dict[str, Array]]:
        fetched = jax.device_put(references, dict(references_here))
        state, metrics = step(jax.device_put(state, here), frozen, fetched, batches)
        return jax.device_put(state, kept), metrics

    return run
