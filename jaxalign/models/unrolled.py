"""A decoder one token at a time: what a rollout engine steps.

Layers lie apart: a cache inside a scan over layers is copied at every token.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxalign.mesh.layout import Layout
from jaxalign.models import cache
from jaxalign.models.block import Block
from jaxalign.models.layers import RMSNorm, is_variable
from jaxalign.models.stack import Stack
from jaxalign.ops.attention import Behind, Progress


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
        self, kept: cache.Cache, tokens: Int[Array, " n"], progress: Progress
    ) -> tuple[Float[Array, "n d"], cache.Cache]:
        """Hidden states of the rows' newest tokens."""
        stack = self.stack
        turns = [kept.turn(number, progress, tokens.shape[0]) for number in range(len(stack.ropes))]
        x = stack.embedded(self.embed, tokens[:, None], self.layout)
        written = []
        for block, kind, trunk, old in zip(self.blocks, stack.kinds, kept.prompts, kept.own, strict=True):
            turn = None if kind.rope is None else turns[kind.rope]
            window = None if kind.window is None else jnp.int32(kind.window)
            x, memory = layer_step(*nnx.split(block), x, turn, Behind(*trunk, progress), window, old)
            written.append(memory)
        return self.norm(x)[:, 0], dataclasses.replace(kept, own=tuple(written))


@functools.partial(jax.jit, static_argnums=0)
def layer_step(
    definition: Any,
    weights: Any,
    x: Float[Array, "n 1 d"],
    turn: Any,
    sight: Behind,
    window: Int[Array, ""] | None,
    old: Any,
) -> tuple[Float[Array, "n 1 d"], Any]:
    """One layer on the rows' newest tokens, and its memory with them. Jitted, so that layers which are alike are traced
    and lowered once: of thirty layers that was most of the seconds before a rollout's program is known."""
    block = nnx.merge(definition, weights)
    return block(x, turn, sight, window, lambda new: cache.insert(old, new, sight.progress))
