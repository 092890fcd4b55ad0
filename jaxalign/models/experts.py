"""A mixture of experts: each token goes through the few feed-forward layers that a router picks for it.

    y = Σ_{e in top-k} share_e · (act(x·gate_e) ∘ x·up_e) · down_e,      share = softmax(x·router)

Nothing is dropped and nothing padded: the token-expert pairs are sorted by expert, and products of ragged groups of
rows (`jax.lax.ragged_dot`) give each expert exactly its own. So a token's output does not depend on its company, and
a row, its prefill and its decoding agree. Letters besides those of `jaxalign.types`: e experts, z pairs, f width of
an expert.

Shazeer et al. 2017 (1701.06538); routing without dropping: Gale et al. 2022 (2211.15841).
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxalign.models.layers import ACTIVATIONS, Activation, parameter


@dataclasses.dataclass(frozen=True)
class Mixture:
    """How many experts there are, how many a token goes through, their width, and whether their shares sum to 1."""

    experts: int
    chosen: int
    mlp: int
    normalised: bool


class Experts(nnx.Module):
    """The feed-forward layer of a decoder block, from a mixture."""

    def __init__(self, width: int, mixture: Mixture, activation: Activation):
        count, mlp = mixture.experts, mixture.mlp
        self.mixture, self.activation = mixture, activation
        self.router = parameter((width, count), ("embed", "expert"))
        self.gate = parameter((count, width, mlp), ("expert", "embed", "mlp"))
        self.up = parameter((count, width, mlp), ("expert", "embed", "mlp"))
        self.down = parameter((count, mlp, width), ("expert", "mlp", "embed"))

    def __call__(self, x: Float[Array, "n s d"]) -> Float[Array, "n s d"]:
        tokens = x.reshape(-1, x.shape[-1])
        share, chosen = self.route(tokens)
        order = jnp.argsort(chosen.reshape(-1))
        sizes = jnp.bincount(chosen.reshape(-1), length=self.mixture.experts)
        found = self.through(tokens[order // self.mixture.chosen], sizes)
        # back in the order of tokens: a sum over k neighbours has one order, a scatter has none
        apart = found[jnp.argsort(order)].reshape(*chosen.shape, -1)
        return jnp.einsum("zkd,zk->zd", apart.astype(jnp.float32), share).astype(x.dtype).reshape(x.shape)

    def route(self, tokens: Float[Array, "z d"]) -> tuple[Float[Array, "z k"], Int[Array, "z k"]]:
        """Shares (fp32) and numbers of the experts of each token."""
        scores = (tokens @ self.router[...].astype(tokens.dtype)).astype(jnp.float32)
        share, chosen = jax.lax.top_k(jax.nn.softmax(scores, axis=-1), self.mixture.chosen)
        return (share / share.sum(-1, keepdims=True) if self.mixture.normalised else share), chosen

    def through(self, rows: Float[Array, "z d"], sizes: Int[Array, " e"]) -> Float[Array, "z d"]:
        """Rows through their experts; the first sizes[0] belong to expert 0, and so on."""
        gate, up, down = (w[...].astype(rows.dtype) for w in (self.gate, self.up, self.down))
        inner = ACTIVATIONS[self.activation](jax.lax.ragged_dot(rows, gate, sizes)) * jax.lax.ragged_dot(
            rows, up, sizes
        )
        return jax.lax.ragged_dot(inner, down, sizes)
