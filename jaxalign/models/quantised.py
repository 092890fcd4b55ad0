"""Matrices kept in few bits for a frozen base: blockwise int8, and NF4.

A block of `BLOCK` neighbours along the last axis (or the whole axis where it does not divide) shares one fp32 scale,
its largest magnitude. NF4 rounds to sixteen levels that are quantiles of a normal distribution, two codes a byte:
Dettmers et al. 2023 (arXiv 2305.14314), appendix E; the scales are not quantised again. 4.5 bits a value in NF4, 8.5 in
int8. Codes and scales keep the leading axes of the matrix, so they are stacked, sharded and scanned alike.
"""

import dataclasses
import itertools
from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.types import pytree

BLOCK = 64

Kind = Literal["int8", "nf4"]

# Quantiles of N(0, 1) scaled to [-1, 1], an exact zero among them.
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


@pytree
class Quantised:
    """A matrix as codes (int8, or two to a byte in uint8) and fp32 scales; `dense()` is what it stands for. Trees of
    its axes or shardings have the same form, so its fields are of any type."""

    codes: Any
    scales: Any
    kind: Kind = dataclasses.field(metadata={"static": True})

    @property
    def ndim(self) -> int:
        """Axes of the array that it stands for."""
        return self.codes.ndim

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array that it stands for: two 4-bit codes lie in a byte."""
        return (*self.codes.shape[:-1], self.codes.shape[-1] * (2 if self.kind == "nf4" else 1))

    def dense(self) -> Float[Array, "..."]:
        """The values, fp32."""
        if self.kind == "nf4":
            pairs = jnp.stack([self.codes >> 4, self.codes & 15], axis=-1)
            levels = jnp.asarray(NF4, jnp.float32)[pairs.astype(jnp.int32)]
        else:
            levels = self.codes.astype(jnp.float32) / 127.0
        blocks = levels.reshape(*self.scales.shape, -1) * self.scales[..., None]
        return blocks.reshape(self.shape)


def quantise(values: Float[Array, "..."], kind: Kind) -> Quantised:
    """The nearest codes. Raises ValueError when NF4 cannot pair an odd number of columns."""
    width = values.shape[-1]
    if kind == "nf4" and width % 2:
        raise ValueError(f"NF4 stores pairs: {width} columns are odd")
    block = BLOCK if width % BLOCK == 0 else width
    blocks = values.astype(jnp.float32).reshape(*values.shape[:-1], width // block, block)
    scales = jnp.abs(blocks).max(-1)
    unit = (blocks / jnp.maximum(scales, jnp.finfo(jnp.float32).tiny)[..., None]).reshape(values.shape)
    if kind == "int8":
        return Quantised(jnp.round(unit * 127.0).astype(jnp.int8), scales, kind)
    middles = jnp.asarray([(low + high) / 2 for low, high in itertools.pairwise(NF4)], jnp.float32)
    codes = jnp.searchsorted(middles, unit).astype(jnp.uint8)
    return Quantised(codes[..., 0::2] << 4 | codes[..., 1::2], scales, kind)
