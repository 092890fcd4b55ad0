"""Grouped-query attention, with what families add to it: biases, norms of queries and keys, soft-capped scores.

Letters besides those of `jaxalign.types`: k KV heads, g query heads per KV head, h head size. Softmax is fp32.

GQA: Ainslie et al. 2023 (2305.13245). Norms of queries and keys: Henry et al. 2020 (2010.04245), here RMSNorms over
each head. Soft-caps: Gemma 2 (2408.00118) §2.
"""

from collections.abc import Callable

from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from jaxalign.mesh.layout import Layout
from jaxalign.models.layers import RMSNorm, contract, parameter, read
from jaxalign.models.rope import Angles, rotate
from jaxalign.ops.attention import Rounded, Sight, attend

KeyValue = tuple[Float[Array, "n k h c"] | Rounded, Float[Array, "n k c h"] | Rounded]
"""Keys lie with the columns last, so that both products of attention run along rows of memory."""


class Attention(nnx.Module):
    """Query head i reads KV head i // g. `norm` builds the norms of queries and keys over a head, where there are any.

    Scores are divided by sqrt(`scalar`), then capped at ±`cap`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        layout: Layout | None,
        scalar: float,
        cap: float | None = None,
        biased: bool = False,
        norm: Callable[[int], RMSNorm] | None = None,
    ):
        self.kv_heads, self.scalar, self.cap, self.layout = kv_heads, scalar, cap, layout
        self.q = parameter((width, heads, head_dim), ("embed", "heads", "head"))
        self.k = parameter((width, kv_heads, head_dim), ("embed", "kv_heads", "head"))
        self.v = parameter((width, kv_heads, head_dim), ("embed", "kv_heads", "head"))
        self.o = parameter((heads, head_dim, width), ("heads", "head", "embed"))
        self.q_bias = parameter((heads, head_dim), ("heads", "head")) if biased else None
        self.k_bias = parameter((kv_heads, head_dim), ("kv_heads", "head")) if biased else None
        self.v_bias = parameter((kv_heads, head_dim), ("kv_heads", "head")) if biased else None
        self.q_norm = norm(head_dim) if norm else None
        self.k_norm = norm(head_dim) if norm else None

    def read(self, x: Float[Array, "n s d"], turn: Angles | None) -> tuple[Float[Array, "n s heads h"], KeyValue]:
        """Rotated queries, and rotated keys and values in the layout of a cache. None rotates nothing."""
        query = self.project(x, self.q, self.q_bias, "heads")
        key, value = (self.project(x, w, b, "kv_heads") for w, b in ((self.k, self.k_bias), (self.v, self.v_bias)))
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        if turn is not None:
            query, key = rotate(query, turn), rotate(key, turn)
        return query, (key.transpose(0, 2, 3, 1), value.swapaxes(1, 2))

    def write(
        self, query: Float[Array, "n s heads h"], memory: KeyValue, sight: Sight, window: Int[Array, ""] | None
    ) -> Float[Array, "n s d"]:
        """What the queries find in `memory`, projected back to the model's width."""
        n, s, heads, h = query.shape
        grouped = query.reshape(n, s, self.kv_heads, heads // self.kv_heads, h)
        found = attend(grouped, *memory, sight, window, self.scalar, self.cap, self.layout).reshape(n, s, heads, h)
        found = checkpoint_name(found, "attention")
        return contract("nskh,khd->nsd", found, self.o, self.layout)

    def project(
        self, x: Float[Array, "n s d"], kernel: nnx.Param, bias: nnx.Param | None, heads: str
    ) -> Float[Array, "n s k h"]:
        """x · kernel + bias, a head on an axis of its own."""
        found = contract("nsd,dkh->nskh", x, kernel, self.layout)
        if bias is not None:
            found += read(bias, x.dtype, self.layout)[None, None]
        return found if self.layout is None else self.layout.place(found, "rows", "sequence", heads, None)
