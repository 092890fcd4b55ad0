"""Token rows → log-probs of response tokens: the one way log-probs are computed, for policies and references alike.

The contract (fp32 throughout, whatever the model computes in): the score of a token comes from the hidden state of its
predecessor in its own branch; exactly the listed tokens are scored (a finished response's end-of-turn token once, no
prompt token, no padding); sums are over all tokens of a response, never means.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxalign.models.model import Model
from jaxalign.ops.linear_logp import OnMesh, linear_logp
from jaxalign.packing import pack, row_shape
from jaxalign.sharding import row_sharding, row_shards
from jaxalign.types import Batch, Groups, Params, Rollouts, Rows


def attention_mask(rows: Rows) -> Bool[Array, "n s s"]:
    """[query, key]: same group, key not later, key in the trunk or in the query's own branch. False on padding."""
    same_group = (rows.group[:, :, None] == rows.group[:, None, :]) & (rows.group >= 0)[:, :, None]
    not_later = rows.position[:, None, :] <= rows.position[:, :, None]
    own_path = (rows.branch[:, None, :] == 0) | (rows.branch[:, None, :] == rows.branch[:, :, None])
    return same_group & not_later & own_path


def token_logps(
    model: Model, params: Params, rows: Rows, mask: Bool[Array, "b r t"], mesh: jax.sharding.Mesh | None = None
) -> Float[Array, "b r t"]:
    """log π(token | its path) in nats at the cells of `mask`, 0 elsewhere.

    On the `mesh` where rows and parameters lie, each device scores its own rows of the vocabulary, and the head is
    never gathered over them. Without it XLA partitions the op as it can.
    """
    hidden = model.hidden(params, rows.tokens, rows.position, attention_mask(rows))
    sources = jnp.take_along_axis(hidden, rows.source[:, :, None], axis=1)
    head = model.head(params)
    logps = linear_logp(
        sources.reshape(-1, hidden.shape[-1]),
        head,
        rows.target.reshape(-1),
        softcap=model.config.softcap,
        layout=None if mesh is None else _layout(mesh, head.shape[1]),
    )
    slots = jnp.where(rows.slot < 0, mask.size, rows.slot).reshape(-1)
    return jnp.zeros(mask.size, jnp.float32).at[slots].set(logps, mode="drop").reshape(mask.shape)


def _layout(mesh: jax.sharding.Mesh, width: int) -> OnMesh | None:
    """Where `sharding.RULES` put rows and head; None on one device, where the op may choose to hold the logits."""
    if mesh.size == 1:
        return None
    split = mesh.shape["fsdp"] > 1 and width % mesh.shape["fsdp"] == 0
    return OnMesh(mesh, tokens=("data", "fsdp"), vocabulary="tensor", columns="fsdp" if split else None)


def logp_sums(model: Model, params: Params, batch: Batch, mesh: jax.sharding.Mesh | None = None) -> Float[Array, "b r"]:
    """Response log-probs under `params`, nats."""
    return token_logps(model, params, batch.rows, batch.mask, mesh).sum(-1)


class Scorer:
    """Log-prob sums of whole sets of responses, `batch_size` groups at a time; compiled once a row shape."""

    def __init__(self, model: Model, mesh: jax.sharding.Mesh, batch_size: int):
        shards = row_shards(mesh)
        self.batch_size = -(-batch_size // shards) * shards
        self._mesh = mesh
        self._sums = jax.jit(lambda params, batch: logp_sums(model, params, batch, mesh))

    def groups(
        self, params: Params, rollouts: Rollouts, groups: Groups, between: Callable[[int], None] = lambda done: None
    ) -> Float[np.ndarray, "g r"]:
        """Nats for every response of every group under `params`. `between` hears the groups done after each batch."""
        count = len(groups.prompt)
        shape = row_shape(rollouts, groups)
        found = np.zeros(groups.responses.shape, np.float32)
        for start in range(0, count, self.batch_size):
            chosen = np.full(self.batch_size, -1)
            real = min(self.batch_size, count - start)
            chosen[:real] = np.arange(start, start + real)
            batch = jax.device_put(pack(rollouts, groups, chosen, shape, {}), row_sharding(self._mesh))
            found[start : start + real] = np.asarray(self._sums(params, batch))[:real]
            between(start + real)
        return found

    def rollouts(self, params: Params, rollouts: Rollouts) -> Float[np.ndarray, "b m"]:
        """Nats for every rollout under `params`: each prompt a row with its m responses as branches."""
        return self.groups(params, rollouts, one_group_a_prompt(rollouts))


def one_group_a_prompt(rollouts: Rollouts) -> Groups:
    """Groups that hold all m responses of each prompt, unlabelled."""
    count, samples = rollouts.lengths.shape
    return Groups(
        prompt=np.arange(count),
        responses=np.tile(np.arange(samples), (count, 1)),
        prefer=np.full(count, 0.5, np.float32),
        weight=np.ones(count, np.float32),
        win=np.full((count, samples), 0.5, np.float32),
    )
