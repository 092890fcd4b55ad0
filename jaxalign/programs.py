"""The compiled programs of a run, with shapes and places of all that goes through them: what a session runs and what
`jaxalign plan` compiles for machines that are not here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import optax
from jaxtyping import Array

from jaxalign.errors import ConfigError
from jaxalign.experiment import Experiment
from jaxalign.mesh.flags import options
from jaxalign.mesh.sharding import param_shardings, replicated
from jaxalign.models.low_rank import trained
from jaxalign.models.model import Model
from jaxalign.training.step import Fit, Step, TrainState, init_state, make_step
from jaxalign.types import Batch, Params


@dataclass(frozen=True)
class Training:
    """A fit's step, its first state as a function of the policy, and shapes, dtypes and shardings of that state and of
    live references, by role; `refer` makes of a policy what its reference is."""

    step: Step
    begin: Callable[[Params], TrainState]
    abstract: TrainState
    references: Mapping[str, Params]
    refer: Callable[[Params], Params]

    def reference(self, role: str, policy: Params) -> Params:
        """A live reference, in its place."""
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.references[role])
        return jax.device_put(self.refer(policy), shardings)


def training(experiment: Experiment, model: Model, mesh: jax.sharding.Mesh, steps: int) -> Training:
    """The programs of a fit of `steps` steps. Optimizer state lies as the parameters it belongs to."""
    optimizer, schedule = experiment.optimizer.build(steps)
    begin = partial(init_state, optimizer=optimizer)
    shardings = trained(param_shardings(mesh, experiment.mesh.rules, model.abstract(), model.axes))
    state = jax.eval_shape(begin, model.abstract())
    moments = optax.tree_utils.tree_map_params(
        optimizer,
        lambda _, sharding: sharding,
        state.opt_state,
        shardings,
        transform_non_params=lambda _: replicated(mesh),
    )
    kept = optax.tree_utils.tree_map_params(
        optimizer, lambda _, sharding: sharding.with_memory_kind(experiment.fit.optimizer_memory), moments, shardings
    )
    live = experiment.reference.live(experiment.loss.needs)
    refer = jax.jit(lambda policy: trained(model.computing(policy)), out_shardings=shardings)
    shape = jax.eval_shape(refer, model.abstract())
    references = {
        role: jax.tree.map(lambda leaf, place, kind=memory: on(leaf, place.with_memory_kind(kind)), shape, shardings)
        for role, memory in live.items()
    }
    place = partial(_state, state, replicated(mesh), shardings)
    step = make_step(model, experiment.loss, optimizer, schedule)
    if {experiment.fit.optimizer_memory, *live.values()} != {"device"}:
        step = _fetching(step, place(moments), dict.fromkeys(live, shardings), place(kept))
    return Training(
        step=jax.jit(
            step,
            donate_argnums=0,
            out_shardings=(place(kept), None),
            compiler_options=options(experiment.xla_flags, mesh),
        ),
        begin=jax.jit(begin, out_shardings=place(kept)),
        abstract=jax.tree.map(on, state, place(kept)),
        references=references,
        refer=refer,
    )


def check_batches(fit: Fit, shards: int) -> None:
    """Raises ConfigError unless the rows of a microbatch divide over `shards` devices."""
    if fit.batch_size // fit.accumulate % shards:
        raise ConfigError(
            f"fit: batch_size {fit.batch_size} / accumulate {fit.accumulate} must be a multiple of the {shards} shards "
            "that rows are split over (mesh: slices · data · fsdp · expert)"
        )


def _state(state: TrainState, step: Any, params: Any, opt_state: Any) -> Any:
    """A tree of shardings in the structure of `state`."""
    return jax.tree.unflatten(jax.tree.structure(state), jax.tree.leaves((step, params, opt_state)))


def _fetching(step: Step, here: Any, references_here: Mapping[str, Any], kept: Any) -> Step:
    """`step` of a state and references that are kept in the memory of the host: fetched, and the state put back."""

    def run(
        state: TrainState, frozen: Params, references: Mapping[str, Params], batches: Batch
    ) -> tuple[TrainState, dict[str, Array]]:
        fetched = jax.device_put(references, dict(references_here))
        state, metrics = step(jax.device_put(state, here), frozen, fetched, batches)
        return jax.device_put(state, kept), metrics

    return run


def on(leaf: Any, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    """The shape and dtype of `leaf`, in that place."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
