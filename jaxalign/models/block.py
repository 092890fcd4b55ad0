"""One layer of a decoder: attention and a feed-forward part, each between norms, added to the residual stream.

Norms before each part: Touvron et al. 2023 (2302.13971). Norms before and after: Gemma 2 (2408.00118).
"""

from collections.abc import Callable

import jax
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxalign.mesh.layout import Layout
from jaxalign.models.attention import Attention, KeyValue
from jaxalign.models.experts import Experts
from jaxalign.models.layers import GatedMLP, RMSNorm
from jaxalign.models.rope import Angles
from jaxalign.ops.attention import Sight


class Block(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); post-norms, where there are any, normalise both before adding."""

    def __init__(
        self,
        layout: Layout | None,
        attention: Attention,
        attention_norm: RMSNorm,
        attention_post_norm: RMSNorm | None,
        mlp: GatedMLP | Experts,
        mlp_norm: RMSNorm,
        mlp_post_norm: RMSNorm | None,
    ):
        self.layout = layout
        self.attention, self.attention_norm, self.attention_post_norm = attention, attention_norm, attention_post_norm
        self.mlp, self.mlp_norm, self.mlp_post_norm = mlp, mlp_norm, mlp_post_norm

    def __call__(
        self,
        x: Float[Array, "n s d"],
        turn: Angles | None,
        sight: Sight,
        window: Int[Array, ""] | None,
        remember: Callable[[KeyValue], KeyValue],
    ) -> tuple[Float[Array, "n s d"], KeyValue]:
        """The block's output and what it attended to; `remember` joins new keys and values to older ones."""
        with jax.named_scope("attention"):
            query, new = self.attention.read(self.attention_norm(x), turn)
            memory = remember(new)
            found = self.attention.write(query, memory, sight, window)
            x = self.add(x, found if self.attention_post_norm is None else self.attention_post_norm(found))
        with jax.named_scope("mlp"):
            made = self.mlp(self.mlp_norm(x))
            return self.add(x, made if self.mlp_post_norm is None else self.mlp_post_norm(made)), memory

    def add(self, x: Float[Array, "n s d"], found: Float[Array, "n s d"]) -> Float[Array, "n s d"]:
        """The residual stream, split by rows and sequence."""
        # where heads or f are split each device has a part of the sum; not split along that axis, it is summed here
        return x + found if self.layout is None else self.layout.place(x + found, "rows", "sequence", None)
