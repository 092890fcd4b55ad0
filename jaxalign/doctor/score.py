"""Log-probs (nats) of given continuations of given contexts, by the same rows and the same function as in training."""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float

from jaxalign.data.groups import one_group_a_prompt
from jaxalign.mesh.sharding import full_rows, row_sharding
from jaxalign.models.model import Model
from jaxalign.rollouts.shares import given
from jaxalign.training.logps import token_logps
from jaxalign.training.rows import pack, row_shape
from jaxalign.types import Params, Rollouts

Pair = tuple[Sequence[int], Sequence[int]]
"""Ids of a context, at least one, and of what follows it, at least one."""


def continuations(
    model: Model, params: Params, mesh: jax.sharding.Mesh, pairs: Sequence[Pair]
) -> list[Float[np.ndarray, " t"]]:
    """log π(token | all before it) for every token of each continuation; contexts are not scored."""
    return [
        table[0, : len(after)] for table, (_, after) in zip(logps(model, params, mesh, made(pairs)), pairs, strict=True)
    ]


def logps(model: Model, params: Params, mesh: jax.sharding.Mesh, rollouts: Rollouts) -> Float[np.ndarray, "b m t"]:
    """log π of every response token under `params`, all responses of a prompt in one row; 0 beyond their lengths."""
    groups = one_group_a_prompt(rollouts)
    count = len(groups)
    chosen = np.full(full_rows(mesh, count), -1)
    chosen[:count] = np.arange(count)
    batch = jax.device_put(pack(groups, chosen, row_shape(groups), {}), row_sharding(mesh))
    score = jax.jit(lambda params, batch: token_logps(model, params, batch.rows, batch.mask))
    return np.asarray(score(params, batch))[:count]


def made(pairs: Sequence[Pair]) -> Rollouts:
    """The pairs as if each continuation were the one answer to its context."""
    before = np.zeros((len(pairs), max(len(context) for context, _ in pairs)), np.int32)
    after = np.zeros((len(pairs), 1, max(len(answer) for _, answer in pairs)), np.int32)
    for row, (context, answer) in enumerate(pairs):
        before[row, : len(context)] = context
        after[row, 0, : len(answer)] = answer
    lengths = np.array([len(context) for context, _ in pairs], np.int32)
    return given(before, lengths, after, np.array([[len(answer)] for _, answer in pairs], np.int32))
