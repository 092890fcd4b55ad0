"""Blocks that model families share: parameters, RMSNorm, gated feed-forward layers, soft-caps.

Parameters are fp32 masters; each block computes in the dtype of what it is given and casts its matrices to it.
Statistics of norms are fp32 always. `logical` beside each parameter names its axes for sharding. Letters besides
those of `jaxalign.types`: f width of the feed-forward layer.

RMSNorm: Zhang & Sennrich 2019 (1910.07467). SwiGLU and GeGLU: Shazeer 2020 (2002.05202). Soft-caps: Gemma 2
(2408.00118) §2.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

Activation = Literal["silu", "gelu_tanh"]
ACTIVATIONS: Mapping[str, Callable[[Any], Any]] = {
    "silu": jax.nn.silu,
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
}


def parameter(shape: tuple[int, ...], logical: tuple[str, ...]) -> nnx.Param:
    """Declares a parameter. Modules are only ever built abstractly; values come from a `weights.Reader`."""
    return nnx.Param(jnp.zeros(shape, jnp.float32), logical=logical)


class RMSNorm(nnx.Module):
    """x / sqrt(mean(x²) + eps) · (offset + scale) over the last axis, statistics in fp32."""

    def __init__(self, width: int, eps: float, offset: float, axis: str = "embed"):
        self.scale = parameter((width,), (axis,))
        self.eps, self.offset = eps, offset

    def __call__(self, x: Float[Array, "*rows d"]) -> Float[Array, "*rows d"]:
        wide = x.astype(jnp.float32)
        unit = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.eps)
        scale = self.scale[...] + self.offset if self.offset else self.scale[...]
        return (unit * scale.reshape(*(1,) * (x.ndim - 1), -1)).astype(x.dtype)


class GatedMLP(nnx.Module):
    """(act(x·gate) ∘ x·up) · down."""

    def __init__(self, width: int, mlp: int, activation: Activation):
        self.gate = parameter((width, mlp), ("embed", "mlp"))
        self.up = parameter((width, mlp), ("embed", "mlp"))
        self.down = parameter((mlp, width), ("mlp", "embed"))
        self.activation = activation

    def __call__(self, x: Float[Array, "n s d"]) -> Float[Array, "n s d"]:
        gate, up, down = (w[...].astype(x.dtype) for w in (self.gate, self.up, self.down))
        return (ACTIVATIONS[self.activation](x @ gate) * (x @ up)) @ down


def softcap(scores: Float[Array, "*rows v"], cap: float | None) -> Float[Array, "*rows v"]:
    """cap · tanh(scores / cap): scores kept within ±cap. None leaves them as they are."""
    return scores if cap is None else cap * jnp.tanh(scores / cap)
