"""A decoder one token at a time: what a rollout engine steps.

Layers lie apart: a cache inside a scan over layers is copied at every token.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxalign.mesh.layout import Layout
from jaxalign.models import cache
from jaxalign.models.block import Block
from jaxalign.models.layers import RMSNorm, is_variable
from jaxalign.models.rope import angles
from jaxalign.models.stack import Stack
from jaxalign.ops.attention import Shown


class Unrolled(nnx.Module):
    """The decoder whose stacked layers are `blocks`, with layers apart, matrices already in the compute dtype, and on a
    mesh gathered over the axes that split tokens, once for all tokens.

    `layer` is one block without values, on `layout`: it serves all layers. `head` scores the vocabulary, where the
    embeddings do not.
    """

    def __init__(
        self,
        stack: Stack,
        layout: Layout | None,
        embed: nnx.Param,
        layer: Block,
        blocks: Block,
        norm: RMSNorm,
        head: nnx.Param | None,
    ):
        self.stack, self.layout = stack, layout
        # one block's definition serves all: what differs, window and rotation, is looked up at each step
        stacked, definition = nnx.split(blocks)[1], nnx.graphdef(layer)
        self.embed = self.kept(embed)
        self.blocks = nnx.List(
            nnx.merge(definition, jax.tree.map(functools.partial(self.one, index), stacked, is_leaf=is_variable))
            for index in range(len(stack.kinds))
        )
        self.norm = norm
        if head is not None:
            self.head = self.kept(head)

    def kept(self, matrix: nnx.Param) -> nnx.Param:
        """A matrix as decoding wants it."""
        names = matrix.get_metadata("logical")
        found = matrix[...].astype(self.stack.compute_dtype)
        return nnx.Param(found if self.layout is None else self.layout.place(found, *names), logical=names)

    def one(self, index: int, stacked: Any) -> Any:
        """One layer's weights: matrices in the compute dtype; scales of norms stay fp32, as they are in training."""
        names, weight = stacked.get_metadata("logical"), stacked[...][index]
        if len(names) > 1:
            weight = weight.astype(self.stack.compute_dtype)
        return stacked.replace(weight if self.layout is None else self.layout.place(weight, *names))

    def decode(
        self,
        kept: cache.Layers,
        tokens: Int[Array, " b"],
        position: Int[Array, " b"],
        visible: Bool[Array, "b c"],
        index: Int[Array, ""],
    ) -> tuple[Float[Array, "b d"], cache.Layers]:
        """Hidden states of the new tokens, whose keys and values are written at column `index`.

        Columns hold neighbouring positions, so a window of positions is one of columns.
        """
        stack = self.stack
        turns = [angles(position[:, None], rope.frequencies(stack.head_dim)) for rope in stack.ropes]
        x = stack.embedded(self.embed, tokens[:, None], self.layout)
        distance = index - jnp.arange(visible.shape[1], dtype=index.dtype)
        written = []
        for block, kind, old in zip(self.blocks, stack.kinds, kept, strict=True):
            shown = visible if kind.window is None else visible & (distance < kind.window)[None]
            turn = None if kind.rope is None else turns[kind.rope]
            sight = Shown(shown[:, None], position[:, None])
            # the window is in the mask already
            x, memory = block(x, turn, sight, None, lambda new, old=old: cache.insert(old, new, index))
            written.append(memory)
        return self.norm(x)[:, 0], tuple(written)
