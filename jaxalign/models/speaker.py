"""What rollouts ask of a model: scores of the next token, token after token."""

from typing import Protocol, runtime_checkable

from jaxtyping import Array, Bool, Float, Int

from jaxalign.models.model import Architecture, Cache, Conversation
from jaxalign.ops.attention import Tree
from jaxalign.types import Params


@runtime_checkable
class Speaker(Protocol):
    """A `Model`, or several that speak together; see there."""

    @property
    def config(self) -> Architecture: ...
    @property
    def chat(self) -> Conversation: ...
    def hidden(
        self,
        params: Params,
        tokens: Int[Array, "n s"],
        position: Int[Array, "n s"],
        sight: Tree | Bool[Array, "n s s"],
    ) -> Float[Array, "n s d"]: ...
    def logits(self, params: Params, hidden: Float[Array, "*rows d"]) -> Float[Array, "*rows v"]: ...
    def prefill(
        self,
        params: Params,
        tokens: Int[Array, "b p"],
        position: Int[Array, "b p"],
        sight: Tree | Bool[Array, "b p p"],
        capacity: int,
    ) -> tuple[Float[Array, "b d"], Cache]: ...
    def unstacked(self, params: Params) -> Params: ...
    def decode(
        self,
        view: Params,
        cache: Cache,
        tokens: Int[Array, " b"],
        position: Int[Array, " b"],
        visible: Bool[Array, "b c"],
        index: Int[Array, ""],
    ) -> tuple[Float[Array, "b d"], Cache]: ...
