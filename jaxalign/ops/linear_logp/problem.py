"""What an implementation of the pass is given: one shard of the vocabulary, and what to pull back through it."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxalign.ops.linear_logp.logits import Logits
from jaxalign.ops.linear_logp.stats import Partial, Want
from jaxalign.types import pytree


@pytree
class Shard:
    """Tokens and v rows of the head. `targets` count from the shard's first row; others' are out of [0, v).

    Rows from `limit` on, where it is given, pad the table: no token has them and they get no gradient.
    """

    hidden: Float[Array, "n d"]
    head: Float[Array, "v d"]
    bias: Float[Array, " v"] | None
    targets: Int[Array, " n"]
    limit: Int[Array, ""] | None

    def holds(self, targets: Int[Array, " c"]) -> Bool[Array, " c"]:
        """Whether the row of each target is in this shard."""
        return (targets >= 0) & (targets < self.head.shape[0])

    def rest(self, first: int) -> "Shard":
        """The rows from `first` on."""
        bias = None if self.bias is None else self.bias[first:]
        targets = jnp.where(self.targets >= 0, self.targets - first, -1)
        return Shard(self.hidden, self.head[first:], bias, targets, None if self.limit is None else self.limit - first)


@pytree
class Pull:
    """Gradient of the logits: `target` at v = y, and p_v (others + log_p · log p_v + p · p_v) elsewhere."""

    lse: Float[Array, " n"]
    target: Float[Array, " n"]
    others: Float[Array, " n"]
    log_p: Float[Array, " n"] | None = None
    p: Float[Array, " n"] | None = None
    tiles: Float[Array, "chunks n c"] | None = None
    """what the forward pass kept of the logits"""


@jax.tree_util.register_static
@dataclass(frozen=True)
class Wants:
    """Which gradients the backward pass makes; a PyTree without leaves, so that it can be kept for it."""

    hidden: bool
    head: bool
    bias: bool


Gradients = tuple[Float[Array, "n d"] | None, Float[Array, "v stored"] | None, Float[Array, " v"] | None]


@dataclass(frozen=True)
class Engine:
    """One implementation of the two passes; hashable, so that it can be static under `jit`.

    `backward` gives the gradients of hidden (fp32, this shard's part of the sum), head and bias.
    """

    name: str
    forward: Callable[[Shard, Logits, Want], Partial]
    backward: Callable[[Shard, Logits, Pull, Wants], Gradients]
    keeps_row: bool = True
    """whether its forward pass makes the mean row at little cost; if not, `backward` gives hidden's gradient too"""
