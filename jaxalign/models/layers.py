"""Blocks that model families share: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

Parameters are fp32 masters; each block computes in the dtype of what it is given and casts its matrices to it.
Statistics of norms, rotations and softmax are fp32 always. `logical` beside each parameter names its axes for
sharding. Letters besides those of `jaxalign.types`: k KV heads, g query heads per KV head, h head size, f width of
the feed-forward layer.

RMSNorm: Zhang & Sennrich 2019 (1910.07467). RoPE: Su et al. 2021 (2104.09864), with the two halves of a head as the
pair ("rotate half"). GQA: Ainslie et al. 2023 (2305.13245). SwiGLU: Shazeer 2020 (2002.05202).
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

MASKED = -1e30
"""Score of what may not be seen: finite, so that a row that sees nothing (padding) averages instead of dividing 0/0."""

Angles = tuple[Float[Array, "n s 1 half"], Float[Array, "n s 1 half"]]
KeyValue = tuple[Float[Array, "n k h c"], Float[Array, "n k c h"]]
"""Keys lie with the columns last, so that both products of attention run along rows of memory."""


def parameter(shape: tuple[int, ...], logical: tuple[str, ...]) -> nnx.Param:
    """Declares a parameter. Modules are only ever built abstractly; values come from a `weights.Reader`."""
    return nnx.Param(jnp.zeros(shape, jnp.float32), logical=logical)


class RMSNorm(nnx.Module):
    """x / sqrt(mean(x²) + eps) · scale, statistics in fp32."""

    def __init__(self, width: int, eps: float):
        self.scale = parameter((width,), ("embed",))
        self.eps = eps

    def __call__(self, x: Float[Array, "n s d"]) -> Float[Array, "n s d"]:
        wide = x.astype(jnp.float32)
        unit = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.eps)
        return (unit * self.scale[...][None, None]).astype(x.dtype)


def angles(position: Int[Array, "n s"], head_dim: int, base: float) -> Angles:
    """cos and sin of position · base^(-2i/h), fp32, one angle for each of the h/2 pairs."""
    frequency = base ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    turn = position.astype(jnp.float32)[..., None, None] * frequency[None, None, None]
    return jnp.cos(turn), jnp.sin(turn)


def rotate(x: Float[Array, "n s k h"], turn: Angles) -> Float[Array, "n s k h"]:
    """Each pair (x[i], x[i + h/2]) turned by its angle."""
    cos, sin = turn
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)


def attend(query: Float[Array, "n s k g h"], memory: KeyValue, mask: Bool[Array, "n s c"]) -> Float[Array, "n s k g h"]:
    """softmax(q·kᵀ / sqrt(h)) · v over the columns that `mask` shows, softmax in fp32."""
    key, value = memory
    scores = match(query, key) / math.sqrt(query.shape[-1])
    scores = jnp.where(mask[:, None, None], scores, MASKED)
    share = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("nkgsc,nkch->nskgh", share, value)


def match(query: Float[Array, "n s k g h"], key: Float[Array, "n k h c"]) -> Float[Array, "n k g s c"]:
    """q·k, accumulated in fp32. XLA has no such product of bf16 for the CPU, so there the operands are widened."""

    def product(q: Array, k: Array) -> Array:
        return jnp.einsum("nskgh,nkhc->nkgsc", q, k, preferred_element_type=jnp.float32)

    def widened(q: Array, k: Array) -> Array:
        return product(q.astype(jnp.float32), k.astype(jnp.float32))

    if query.dtype == jnp.float32:
        return product(query, key)
    return jax.lax.platform_dependent(query, key, cpu=widened, default=product)


class Attention(nnx.Module):
    """Grouped-query attention; query head i reads KV head i // g."""

    def __init__(self, width: int, heads: int, kv_heads: int, head_dim: int):
        self.kv_heads = kv_heads
        self.q = parameter((width, heads, head_dim), ("embed", "heads", "head"))
        self.k = parameter((width, kv_heads, head_dim), ("embed", "kv_heads", "head"))
        self.v = parameter((width, kv_heads, head_dim), ("embed", "kv_heads", "head"))
        self.o = parameter((heads, head_dim, width), ("heads", "head", "embed"))

    def read(self, x: Float[Array, "n s d"], turn: Angles) -> tuple[Float[Array, "n s heads h"], KeyValue]:
        """Rotated queries, and rotated keys and values in the layout of a cache."""
        query, key, value = (jnp.einsum("nsd,dkh->nskh", x, w[...].astype(x.dtype)) for w in (self.q, self.k, self.v))
        return rotate(query, turn), (rotate(key, turn).transpose(0, 2, 3, 1), value.swapaxes(1, 2))

    def write(
        self, query: Float[Array, "n s heads h"], memory: KeyValue, mask: Bool[Array, "n s c"]
    ) -> Float[Array, "n s d"]:
        """What the queries find in `memory`, projected back to the model's width."""
        n, s, heads, h = query.shape
        grouped = query.reshape(n, s, self.kv_heads, heads // self.kv_heads, h)
        found = attend(grouped, memory, mask).reshape(n, s, heads, h)
        return jnp.einsum("nskh,khd->nsd", found, self.o[...].astype(found.dtype))


class SwiGLU(nnx.Module):
    """(silu(x·gate) ∘ x·up) · down."""

    def __init__(self, width: int, mlp: int):
        self.gate = parameter((width, mlp), ("embed", "mlp"))
        self.up = parameter((width, mlp), ("embed", "mlp"))
        self.down = parameter((mlp, width), ("mlp", "embed"))

    def __call__(self, x: Float[Array, "n s d"]) -> Float[Array, "n s d"]:
        gate, up, down = (w[...].astype(x.dtype) for w in (self.gate, self.up, self.down))
        return (jax.nn.silu(x @ gate) * (x @ up)) @ down
