"""Shapes and dtypes of what losses and samplers return, looked at while they are traced: compiled programs do not."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxalign.contracts.arrays import described
from jaxalign.errors import BrokenContract
from jaxalign.types import GroupLogps, Labels, Loss, Sampler


def losses(loss: Loss, logps: GroupLogps) -> Float[Array, " b"]:
    """`loss` of each group. Raises BrokenContract unless it returns one fp32 number a group: a mean hides weights."""
    found = loss(logps)
    groups = logps.mask.shape[0]
    if not (isinstance(found, jax.Array) and found.shape == (groups,) and found.dtype == jnp.float32):
        raise BrokenContract(
            f"loss {type(loss).__name__}: must return one value a group, float32 [{groups}], got {described(found)}"
        )
    return found


def drawn(sampler: Sampler, logits: Float[Array, "b v"], keys: Key[Array, " b"]) -> Int[Array, " b"]:
    """Tokens that `sampler` draws. Raises BrokenContract unless they are one integer a row."""
    found, rows = sampler(logits, keys), logits.shape[0]
    if not (isinstance(found, jax.Array) and found.shape == (rows,) and jnp.issubdtype(found.dtype, jnp.integer)):
        raise BrokenContract(
            f"sampler {type(sampler).__name__}: must return a token a row, int32 [{rows}], got {described(found)}"
        )
    return found.astype(jnp.int32)


def check_loss(loss: Loss) -> None:
    """Raises what `losses` raises, from the shapes of two pairs: before there are any, and before any compute."""
    last, anchor = (jnp.zeros((2, 2)) if role in loss.needs else None for role in ("last", "anchor"))
    pairs = GroupLogps(jnp.zeros((2, 2, 3)), jnp.ones((2, 2, 3), bool), last, anchor, Labels.unsaid(2, 2))
    jax.eval_shape(partial(losses, loss), pairs)


def check_sampler(sampler: Sampler, vocab: int) -> None:
    """Raises what `drawn` raises, from the shapes of two rows: before there are any, and before any compute."""
    jax.eval_shape(partial(drawn, sampler), jnp.zeros((2, vocab)), jax.random.split(jax.random.key(0)))
