"""Token rows → log-probs of response tokens: the one way log-probs are computed, for policies and references alike.

The contract (fp32 throughout, whatever the model computes in): the score of a token comes from the hidden state of its
predecessor in its own branch; exactly the listed tokens are scored (a finished response's end-of-turn token once, no
prompt token, no padding); sums are over all tokens of a response, never means.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxalign.data.edits import without_edits
from jaxalign.data.groups import TrainingGroups, one_group_a_prompt
from jaxalign.mesh.flags import Options
from jaxalign.mesh.layout import Layout, entry
from jaxalign.mesh.once import once
from jaxalign.mesh.rows import on_mesh, rows_here
from jaxalign.mesh.sharding import full_rows, replicated, row_sharding
from jaxalign.models.model import Model
from jaxalign.ops.attention import Tree, balanced
from jaxalign.ops.linear_logp import Logits, LogpOptions, linear_stats, on_layout
from jaxalign.training.one_prompt import OnePrompt
from jaxalign.training.row_plan import plan_rows
from jaxalign.training.row_rule import Passes, RowRule
from jaxalign.training.rows import pack
from jaxalign.types import Batch, Params, Rollouts, Rows


def sight_of(rows: Rows) -> Tree:
    """What the tokens of rows see: their own group, up to themselves, in the trunk or in their own branch."""
    return Tree(rows.group, rows.branch, rows.position)


def laid_out(rows: Rows, layout: Layout | None) -> Rows:
    """Rows with their columns in the order in which a mesh cuts them into pieces that have as much to look at."""
    columns = rows.tokens.shape[1]
    order = None if layout is None else balanced(columns, layout.devices("context"))
    if order is None:
        return rows
    place = np.argsort(order).astype(np.int32)
    tokens, group, branch, position = (
        jnp.take(each, order, axis=1) for each in (rows.tokens, rows.group, rows.branch, rows.position)
    )
    return Rows(tokens, group, branch, position, jnp.take(place, rows.source), rows.target, rows.slot)


def token_logps(model: Model, params: Params, rows: Rows, mask: Bool[Array, "b r t"]) -> Float[Array, "b r t"]:
    """log π(token | its path) in nats at the cells of `mask`, 0 elsewhere.

    On the mesh of the model's layout each device scores the tokens of its own rows, over its own rows of the
    vocabulary; the head is never gathered whole.
    """
    return token_stats(model, params, rows, mask, ("logp",))[0]


def token_stats(
    model: Model, params: Params, rows: Rows, mask: Bool[Array, "b r t"], names: tuple[str, ...]
) -> tuple[Float[Array, "b r t"], ...]:
    """The statistics of `linear_stats` of these names at the cells of `mask`, 0 elsewhere, in one pass over the
    vocabulary. Gradients flow through the log-probs alone."""
    rows = laid_out(rows, model.layout)
    hidden = model.hidden(params, rows.tokens, rows.position, sight_of(rows))
    if model.layout is not None:
        return _on_mesh(model, params, hidden, rows, mask, model.layout, names)
    sources, targets = _scored(hidden, rows.source, rows.target)
    options = LogpOptions(Logits(softcap=model.config.softcap))
    found = _stats(sources, model.head(params), targets, options, names)
    return tuple(_cells(each, rows.slot, mask) for each in found)


def _stats(sources: Array, head: Array, targets: Array, options: LogpOptions, names: tuple[str, ...]) -> list[Array]:
    made = linear_stats(sources, head, targets, options, outputs=names)
    found: list[Array] = [getattr(made, name) for name in names]
    return [each if name == "logp" else jax.lax.stop_gradient(each) for name, each in zip(names, found, strict=True)]


def _scored(
    hidden: Float[Array, "n s d"], source: Int[Array, "n q"], target: Int[Array, "n q"]
) -> tuple[Float[Array, "k d"], Int[Array, " k"]]:
    """All scored tokens (k = n · q): the hidden states of their predecessors, and the tokens."""
    found = jnp.take_along_axis(hidden, source[:, :, None], axis=1)
    return found.reshape(-1, hidden.shape[-1]), target.reshape(-1)


def _cells(logps: Float[Array, " k"], slot: Int[Array, "n q"], mask: Bool[Array, "b r t"]) -> Float[Array, "b r t"]:
    slots = jnp.where(slot < 0, mask.size, slot).reshape(-1)
    return jnp.zeros(mask.size, jnp.float32).at[slots].set(logps, mode="drop").reshape(mask.shape)


def _on_mesh(
    model: Model,
    params: Params,
    hidden: Array,
    rows: Rows,
    mask: Bool[Array, "b r t"],
    layout: Layout,
    names: tuple[str, ...],
) -> tuple[Float[Array, "b r t"], ...]:
    """The same with rows, and pieces of rows, on devices of their own: a group's cells lie where its row does."""
    here, at = layout.spec(hidden.shape, "rows", "sequence", None), layout.spec(rows.source.shape, "rows", "sequence")
    if at[1] != here[1]:
        pieces = layout.devices("context")
        raise ValueError(f"{rows.source.shape[1]} scored tokens a row do not divide into the {pieces} pieces of a row")
    row_axes, sequence = entry(at, 0), entry(at, 1)
    tokens, table = (*row_axes, *sequence), P(at[0], None, None)

    def scored(hidden: Array, source: Array, target: Array) -> tuple[Array, Array]:
        if sequence:  # the predecessor of a scored token may lie on another piece
            hidden = jax.lax.all_gather(hidden, sequence, axis=1, tiled=True)
        return _scored(hidden, source, target)

    def cells(logps: Array, slot: Array, mask: Array) -> Array:
        first = jax.lax.axis_index(row_axes) * mask.size if row_axes else 0
        found = _cells(logps, jnp.where(slot < 0, -1, slot - first), mask)
        return jax.lax.psum(found, sequence) if sequence else found

    head = model.head(params)
    find = layout.mapped(scored, (here, at, at), (P(tokens, None), P(tokens)))
    sources, targets = find(hidden, rows.source, rows.target)
    options = LogpOptions(Logits(softcap=model.config.softcap), layout=on_layout(layout, head.shape, tokens))
    put = layout.mapped(cells, (P(tokens), at, table), table)
    return tuple(put(each, rows.slot, mask) for each in _stats(sources, head, targets, options, names))


def of_groups(batch: Batch, values: Shaped[Array, "n k *rest"]) -> Shaped[Array, "b r *rest"]:
    """What is known of the responses of rows, for the responses of each group."""
    if batch.branch is None:
        return values
    count, (groups, responses) = len(values), batch.branch.shape
    # The groups of a row stand together: on a mesh nothing leaves the device that has the row.
    branch = batch.branch.reshape(count, -1, *[1] * (values.ndim - 2))
    return jnp.take_along_axis(values, branch, axis=1).reshape(groups, responses, *values.shape[2:])


def logp_sums(model: Model, params: Params, batch: Batch) -> Float[Array, "b r"]:
    """Response log-probs under `params`, nats."""
    return of_groups(batch, token_logps(model, params, batch.rows, batch.mask).sum(-1))


@once
def scoring(model: Model, mesh: jax.sharding.Mesh, options: Options | None) -> Any:
    """`logp_sums`, jitted: (params, batch) → a few bytes a group, which every process stores."""
    return jax.jit(partial(logp_sums, model), out_shardings=replicated(mesh), compiler_options=options)


class Scorer:
    """Log-prob sums of whole sets of responses, `batch_size` rows at a time; compiled once a row shape."""

    def __init__(self, model: Model, mesh: jax.sharding.Mesh, batch_size: int, options: Options | None = None):
        self.batch_size = full_rows(mesh, batch_size)
        self._here = rows_here(row_sharding(mesh), self.batch_size)
        self._mesh = mesh
        self._sums = scoring(model, mesh, options)

    def groups(
        self,
        params: Params,
        groups: TrainingGroups,
        between: Callable[[int], None] = lambda done: None,
        plan: Passes | None = None,
    ) -> Float[np.ndarray, "g r"]:
        """Nats for every response of every group under `params`, in rows of `plan` (None: each in one of its own).
        `between` hears the groups done after each batch."""
        found = np.zeros((len(groups), groups.responses), np.float32)
        done = 0
        for numbers, sums in self.batches(params, groups, plan or plan_rows(groups)):
            found[numbers] = sums
            done += len(numbers)
            between(done)
        return found

    def batches(
        self, params: Params, groups: TrainingGroups, plan: Passes, known: Bool[np.ndarray, " g"] | None = None
    ) -> Iterator[tuple[Int[np.ndarray, " b"], Float[np.ndarray, "b r"]]]:
        """Numbers of groups and their sums, one batch of `plan` after another; without those that are all `known`."""
        groups = without_edits(groups)
        for rows, shape in plan.batches(self.batch_size, known):
            here = np.where(self._here[:, None], rows, -1)  # a process packs the rows of its own devices
            batch = on_mesh(pack(groups, here.reshape(-1), shape, {}), row_sharding(self._mesh))
            numbers = rows.reshape(-1)
            yield numbers[numbers >= 0], np.asarray(self._sums(params, batch))[numbers >= 0]

    def rollouts(
        self,
        params: Params,
        rollouts: Rollouts,
        rule: RowRule = OnePrompt(),  # noqa: B008
    ) -> Float[np.ndarray, "b m"]:
        """Nats for every rollout under `params`: each prompt with its m responses as branches, in rows by `rule`."""
        groups = one_group_a_prompt(rollouts)
        return self.groups(params, groups, plan=rule.passes(groups, self.batch_size))
