"""Two policies of one model that speak together: each token is drawn from their geometric mixture.

    log p(token | before) = (1 − share) log π(token | before) + share log π_anchor(token | before) − log Z(before)

The mixture that Nash-MD plays against (Munos et al. 2023, arXiv 2312.00886), as language models can draw from it: its
normaliser is taken token by token, since nobody can sum over all answers. For answers of one token it is the mixture of
answers, for longer ones another distribution. Parameters are {"policy": …, "anchor": …}; both read every token, each
with a cache of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxalign.mesh.layout import Layout
from jaxalign.models.cache import Kind
from jaxalign.models.model import Architecture, Cache, Conversation, Model
from jaxalign.ops.attention import Progress, Tree
from jaxalign.types import Params

BOTH = ("policy", "anchor")


@dataclass(frozen=True)
class Geometric:
    """Speaks as a `Model` does, whose methods these are. Hidden states are those of both, side by side."""

    model: Model
    share: float
    """of the anchor, in [0, 1]"""

    @property
    def config(self) -> Architecture:
        """The model's."""
        return self.model.config

    @property
    def layout(self) -> Layout | None:
        """The model's."""
        return self.model.layout

    @property
    def chat(self) -> Conversation:
        """The model's."""
        return self.model.chat

    def caching(self, kind: Kind) -> "Geometric":
        """The same, where each keeps what it reads so."""
        return replace(self, model=self.model.caching(kind))

    def hidden(
        self,
        params: Params,
        tokens: Int[Array, "n s"],
        position: Int[Array, "n s"],
        sight: Tree | Bool[Array, "n s s"],
    ) -> Float[Array, "n s e"]:
        """Of each token of rows, e = 2 d."""
        return _beside(lambda who: self.model.hidden(params[who], tokens, position, sight))

    def logits(self, params: Params, hidden: Float[Array, "*rows e"]) -> Float[Array, "*rows v"]:
        """Weighted by share; softmax normalises them, token by token."""
        policy, anchor = jnp.split(hidden, 2, axis=-1)
        # Not normalised each by itself: that would be another constant, and share 0 another policy in the last bit.
        own, other = self.model.logits(params["policy"], policy), self.model.logits(params["anchor"], anchor)
        return (1 - self.share) * own + self.share * other

    def prefill(
        self,
        params: Params,
        tokens: Int[Array, "b p"],
        position: Int[Array, "b p"],
        sight: Tree | Bool[Array, "b p p"],
        rows: int,
        room: int,
    ) -> tuple[Float[Array, "b e"], Cache]:
        """Of the last column, and a cache each."""
        found = {who: self.model.prefill(params[who], tokens, position, sight, rows, room) for who in BOTH}
        return _beside(lambda who: found[who][0]), {who: found[who][1] for who in BOTH}

    def unstacked(self, params: Params) -> Params:
        """Those of each as `decode` wants them."""
        return {who: self.model.unstacked(params[who]) for who in BOTH}

    def decode(
        self,
        view: Params,
        cache: Cache,
        tokens: Int[Array, " n"],
        progress: Progress,
    ) -> tuple[Float[Array, "n e"], Cache]:
        """One token for each row, which both read."""
        found = {who: self.model.decode(view[who], cache[who], tokens, progress) for who in BOTH}
        return _beside(lambda who: found[who][0]), {who: found[who][1] for who in BOTH}


def _beside(of: Callable[[str], Any]) -> Any:
    return jnp.concatenate([of(who) for who in BOTH], axis=-1)
