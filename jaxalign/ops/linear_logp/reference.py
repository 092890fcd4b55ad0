"""Token log-probs from full logits in fp32: the definition, and the fastest way where [n v] is small.

    z = logits(<h, W_v> + bias_v)        logp = z_y − log Σ_v exp z_v

Differentiated by JAX; holds three [n v] buffers in fp32 while it does.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxalign.ops.linear_logp.logits import Logits
from jaxalign.ops.linear_logp.stats import LinearStats


def full_stats(
    hidden: Float[Array, "n d"],
    head: Float[Array, "v d"],
    bias: Float[Array, " v"] | None,
    targets: Int[Array, " n"],
    logits: Logits,
    outputs: Sequence[str],
) -> LinearStats:
    """Statistics of every token, fp32, by `linear_logp`'s rules for targets outside [0, v)."""
    live, known = targets >= 0, targets < head.shape[0]
    targets = jnp.where(live & known, targets, 0)
    wide, rows = hidden.astype(jnp.float32), head.astype(jnp.float32)
    scores = jnp.einsum("nd,vd->nv", wide, rows, precision="highest")
    # the target's own score from its row: no gather, and in the gradient no scatter, on [n v]
    target = jnp.einsum("nd,nd->n", wide, rows[targets], precision="highest")
    if bias is not None:
        scores += bias.astype(jnp.float32)[None, :]
        target += bias[targets].astype(jnp.float32)
    z, z_target = logits(scores), jnp.where(known, logits(target), jnp.nan)
    lse = jax.nn.logsumexp(z, axis=-1)
    made: dict[str, Array] = {}
    if "logp" in outputs:
        made["logp"] = z_target - lse
    if "lse" in outputs:
        made["lse"] = lse
    if "entropy" in outputs:
        made["entropy"] = lse - jnp.einsum("nv,nv->n", jnp.exp(z - lse[:, None]), z)
    if "log_sum_p2" in outputs:
        made["log_sum_p2"] = jax.nn.logsumexp(2.0 * z, axis=-1) - 2.0 * lse
    if "match" in outputs:
        others = jnp.where(jnp.arange(z.shape[1])[None, :] == targets[:, None], -jnp.inf, z)
        made["match"] = live & (z_target >= others.max(-1))
    return LinearStats(
        **{name: value if name == "match" else jnp.where(live, value, 0.0) for name, value in made.items()}
    )
