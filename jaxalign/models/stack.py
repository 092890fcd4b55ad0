"""What the layers of a decoder see and turn by: windows, rotations, and the embeddings that they begin with.

What differs from layer to layer is a number that travels with the stacked weights of a scan, or is looked up where
layers lie apart. Sliding windows: Mistral (2310.06825). Layers without positions: Yang et al. 2025 (2501.18795).
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxalign.mesh.layout import Layout
from jaxalign.models.layers import lookup
from jaxalign.models.rope import Rope, angles

Dtype = Literal["float32", "bfloat16"]

FAR = 2**30
"""A window no row is as long as."""


@dataclasses.dataclass(frozen=True)
class Layer:
    """What is special about one layer.

    A token sees itself and the `window` - 1 positions before it; None: all before it. `rope` is the index of the
    rotation among the config's `ropes`; None rotates nothing.
    """

    window: int | None = None
    rope: int | None = 0


@dataclasses.dataclass(frozen=True)
class Stack:
    """A kind for each layer, the rotations that kinds name by index, and how tokens become the first layer's input.

    Embeddings are multiplied by `embed_scale`, rounded to the compute dtype.
    """

    kinds: tuple[Layer, ...]
    ropes: tuple[Rope, ...]
    head_dim: int
    embed_scale: float
    compute_dtype: Dtype

    @property
    def windowed(self) -> bool:
        """Whether any layer has a window."""
        return any(kind.window for kind in self.kinds)

    def rotations(self, position: Int[Array, "n s"]) -> tuple[Array, Array]:
        """cos and sin [tables n s 1 half] of every rotation; at the end of the one that turns nothing, if used."""
        frequencies = [rope.frequencies(self.head_dim) for rope in self.ropes]
        if any(kind.rope is None for kind in self.kinds):
            frequencies.append(jnp.zeros_like(frequencies[0]))
        cos, sin = zip(*(angles(position, frequency) for frequency in frequencies), strict=True)
        return jnp.stack(cos), jnp.stack(sin)

    def by_layer(self) -> tuple[Int[np.ndarray, " l"], Int[np.ndarray, " l"]]:
        """Window and index of the rotation of each layer, without windows and rotations written as numbers."""
        # numbers, for a scan has no None: a window beyond any row, and the table of `rotations` that turns nothing
        windows = [kind.window or FAR for kind in self.kinds]
        ropes = [len(self.ropes) if kind.rope is None else kind.rope for kind in self.kinds]
        return np.array(windows, np.int32), np.array(ropes, np.int32)

    def embedded(self, table: nnx.Param, tokens: Int[Array, "n s"], layout: Layout | None) -> Float[Array, "n s d"]:
        """Embeddings in the compute dtype, scaled."""
        with jax.named_scope("embed"):
            found = lookup(table, tokens, self.compute_dtype, layout)
            # Gemma's sqrt(width) is rounded to the compute dtype first: in bf16 it is another number
            return found if self.embed_scale == 1 else found * jnp.asarray(self.embed_scale, found.dtype)
