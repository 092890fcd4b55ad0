"""Blocks that model families share: parameters, embedding lookup, RMSNorm, gated feed-forward layers.

Parameters are fp32 masters; each block computes in the dtype of what it is given and casts its matrices to it.
Statistics of norms are fp32 always. `logical` beside each parameter names its axes; a `layout` says where they lie on
a mesh, and None that there is only one device. Letters besides those of `jaxalign.types`: f width of the feed-forward
layer.

RMSNorm: Zhang & Sennrich 2019 (1910.07467). SwiGLU and GeGLU: Shazeer 2020 (2002.05202).
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from jaxalign.mesh.layout import Layout, entry
from jaxalign.models.low_rank import LowRank
from jaxalign.models.products import Contraction

Activation = Literal["silu", "gelu_tanh"]
ACTIVATIONS: Mapping[str, Callable[[Any], Any]] = {
    "silu": jax.nn.silu,
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
}


def parameter(shape: tuple[int, ...], logical: tuple[str | None, ...]) -> nnx.Param:
    """Declares a parameter. Modules are only ever built abstractly; values come from a `weights.Reader`."""
    return nnx.Param(jnp.zeros(shape, jnp.float32), logical=logical)


def is_variable(leaf: Any) -> bool:
    """Whether it is a leaf of a state, to maps over such trees."""
    return isinstance(leaf, nnx.Variable)


def read(kernel: nnx.Param, dtype: Any, layout: Layout | None) -> Float[Array, "..."]:
    """The parameter in the compute dtype, as the layer that calls this needs it."""
    weight = kernel[...].astype(dtype)
    return weight if layout is None else layout.gather(weight, *kernel.get_metadata("logical"))


def contract(
    subscripts: str, x: Float[Array, "n s ..."], kernel: nnx.Param, layout: Layout | None
) -> Float[Array, "n s ..."]:
    """einsum(subscripts, x, kernel) in the dtype of x; a "product" to policies of what the backward pass keeps."""
    contraction = Contraction(subscripts, layout, kernel.get_metadata("logical"))
    weight = kernel.get_value()
    return checkpoint_name(contraction(x, weight if isinstance(weight, LowRank) else kernel[...]), "product")


def lookup(table: nnx.Param, tokens: Int[Array, "n s"], dtype: Any, layout: Layout | None) -> Float[Array, "n s d"]:
    """Rows of an embedding table in the compute dtype.

    On a mesh the table stays where it is. Each device finds its own columns, of its own part of the vocabulary, for
    the tokens of all devices that hold the other columns; then they exchange columns for rows.
    """
    rows = table[...]
    if layout is None:
        return rows[tokens].astype(dtype)
    at = layout.spec(tokens.shape, "rows", "sequence")
    where = layout.spec(rows.shape, *table.get_metadata("logical"))
    vocabulary, columns = entry(where, 0), entry(where, 1)
    if not {*columns} <= {*entry(at, 0), *entry(at, 1)}:  # the tokens are on all devices: nothing to exchange
        rows, columns = layout.gather(rows.astype(dtype), *table.get_metadata("logical")), ()
        where = layout.resident.spec(rows.shape, *table.get_metadata("logical"))

    def run(rows: Array, tokens: Array) -> Array:
        if columns:
            tokens = jax.lax.all_gather(tokens, columns)
        if vocabulary:
            local = tokens - jax.lax.axis_index(vocabulary) * rows.shape[0]
            held = (local >= 0) & (local < rows.shape[0])
            found = jnp.where(held[..., None], rows[jnp.where(held, local, 0)], 0).astype(dtype)
            found = jax.lax.psum(found, vocabulary)
        else:
            found = rows[tokens].astype(dtype)
        if columns:
            found = jax.lax.all_to_all(found, columns, split_axis=0, concat_axis=found.ndim - 1, tiled=True)[0]
        return found

    return layout.mapped(run, (where, at), P(*at, None))(rows, tokens)


class RMSNorm(nnx.Module):
    """x / sqrt(mean(x²) + eps) · (offset + scale) over the last axis, statistics in fp32."""

    def __init__(self, width: int, eps: float, offset: float):
        self.scale = parameter((width,), ("norm",))
        self.eps, self.offset = eps, offset

    def __call__(self, x: Float[Array, "*rows d"]) -> Float[Array, "*rows d"]:
        wide = x.astype(jnp.float32)
        unit = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.eps)
        scale = self.scale[...] + self.offset if self.offset else self.scale[...]
        return (unit * scale.reshape(*(1,) * (x.ndim - 1), -1)).astype(x.dtype)


class GatedMLP(nnx.Module):
    """(act(x·gate) ∘ x·up) · down."""

    def __init__(self, width: int, mlp: int, activation: Activation, layout: Layout | None):
        self.gate = parameter((width, mlp), ("embed", "mlp"))
        self.up = parameter((width, mlp), ("embed", "mlp"))
        self.down = parameter((mlp, width), ("mlp", "embed"))
        self.activation, self.layout = activation, layout

    def __call__(self, x: Float[Array, "n s d"]) -> Float[Array, "n s d"]:
        gate, up = (contract("nsd,df->nsf", x, w, self.layout) for w in (self.gate, self.up))
        inner = ACTIVATIONS[self.activation](gate) * up
        if self.layout is not None:
            inner = self.layout.place(inner, "rows", "sequence", "mlp")
        return contract("nsf,fd->nsd", inner, self.down, self.layout)
