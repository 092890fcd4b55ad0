"""What losses see, made of random log-probs: pairs (or larger groups) with every column that a loss may read."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from jaxalign.contracts.group_size import ReadsGroups
from jaxalign.types import GroupLogps, Labels, Loss


def logps(
    groups: int = 5, tokens: int = 7, prefer: float = 1.0, seed: int = 0, shift: float = 0.0, responses: int = 2
) -> GroupLogps:
    """Answers of 1 to `tokens` tokens; what two annotators say of them agrees with their order."""
    rng = np.random.default_rng(seed)
    shape = (groups, responses)
    mask = np.arange(tokens)[None, None, :] < rng.integers(1, tokens + 1, (*shape, 1))
    values = np.where(mask, -rng.exponential(1.0, mask.shape) - shift, 0.0).astype(np.float32)
    anchor = np.where(mask, values + rng.normal(0, 0.3, mask.shape), 0.0).astype(np.float32)
    falling = np.float32(np.linspace(0.8, 0.3, responses))
    score = np.sort(rng.normal(0, 1, shape).astype(np.float32))[:, ::-1]
    one = Labels.of_one(
        jnp.full(groups, prefer, jnp.float32), jnp.asarray(np.tile(falling, (groups, 1))), jnp.asarray(score.copy())
    )
    return GroupLogps(
        tokens=jnp.asarray(values),
        mask=jnp.asarray(mask),
        last=jnp.asarray(values.sum(-1) + rng.normal(0, 0.5, shape).astype(np.float32)),
        anchor=jnp.asarray(anchor.sum(-1)),
        labels=dataclasses.replace(one, votes=jnp.tile(one.votes, 2), decided=jnp.tile(one.decided, 2)),
        log_sum_p2=jnp.asarray(np.where(mask, -rng.exponential(1.0, mask.shape), 0.0).astype(np.float32)),
        anchor_tokens=jnp.asarray(anchor),
        stray=jnp.asarray(rng.normal(0.5, 1, groups).astype(np.float32)),
        edited=jnp.asarray(
            np.where(mask & (rng.random(mask.shape) < 0.5), rng.integers(0, 9, mask.shape), -1), jnp.int32
        ),
        weight=jnp.ones(groups, jnp.float32),
    )


def responses_of(loss: Loss) -> int:
    """Of the groups that a loss reads; three, where it reads any number."""
    return (loss.responses or 3) if isinstance(loss, ReadsGroups) else 2


def at_indifference(prefer: float = 1.0, responses: int = 2) -> GroupLogps:
    """The policy is its references, and all answers are of one length and equally likely."""
    x = logps(prefer=prefer, responses=responses)
    mask = jnp.broadcast_to(x.mask[:, :1], x.mask.shape)
    tokens = jnp.broadcast_to(jnp.minimum(x.tokens[:, :1], 0.0), mask.shape)
    sums = tokens.sum(-1)
    stray = jnp.zeros_like(x.stray)
    return dataclasses.replace(x, tokens=tokens, mask=mask, last=sums, anchor=sums, anchor_tokens=tokens, stray=stray)


def one_pair(
    chosen: float, rejected: float, last=(0.0, 0.0), anchor=(0.0, 0.0), prefer=1.0, win=(0.5, 0.5)
) -> GroupLogps:
    """A pair of answers of one token each."""
    return GroupLogps(
        tokens=jnp.array([[[chosen], [rejected]]], jnp.float32),
        mask=jnp.ones((1, 2, 1), bool),
        last=jnp.array([last], jnp.float32),
        anchor=jnp.array([anchor], jnp.float32),
        labels=Labels.of_one(jnp.array([prefer], jnp.float32), jnp.array([win], jnp.float32)),
    )
