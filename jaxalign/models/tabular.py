"""A policy over a finite set of answers: one logit each, no context. The policy of the exact games.

Parameters are {"table": [v 1]} and every hidden state is the number 1, so that hidden · tableᵀ are the logits and a
table goes through rollouts, log-probs and training like any language model. Prompts are the single token 0, a
response is one token, and nothing stops a response but its length.
"""

import dataclasses
import datetime
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxalign.errors import ModelError
from jaxalign.formats.weights import Place
from jaxalign.mesh.layout import Layout
from jaxalign.models.layers import parameter
from jaxalign.models.model import Model, split
from jaxalign.ops.attention import Progress, Sight
from jaxalign.types import Params


@dataclasses.dataclass(frozen=True)
class TabularPolicy:
    """Source of a table of logits."""

    init: tuple[float, ...] = (0.2, 0.5, 0.3)
    """probabilities of the answers a, b, c, … before training"""

    def problems(self) -> Iterable[str]:
        if min(self.init, default=0.0) <= 0 or not math.isclose(sum(self.init), 1.0, abs_tol=1e-6):
            yield f"init must be positive probabilities that sum to 1, got {self.init}"

    def open(self) -> Model:
        """Raises ModelError unless `init` is a distribution."""
        for problem in self.problems():
            raise ModelError(f"TabularPolicy: {problem}")
        config = TabularConfig(self.init)
        return split(config, Actions(config.vocab), f"table of {config.vocab} answers", config.read)


@dataclasses.dataclass(frozen=True)
class TabularConfig:
    """Probabilities of the answers at the start, and what `Model` asks of any architecture."""

    init: tuple[float, ...]
    output: str = "table"
    context: int = 2
    compute_dtype: str = "float32"
    softcap: float | None = None
    outputs: tuple[str, ...] = ()

    @property
    def vocab(self) -> int:
        return len(self.init)

    def module(self, layout: Layout | None = None) -> "Tabular":
        """The table; it is small enough for any device to have it whole."""
        del layout
        return Tabular(self)

    def keeping(self, remat: str) -> "TabularConfig":
        """Itself. Raises ModelError for anything but "none": a table has no layers."""
        if remat != "none":
            raise ModelError(f"remat {remat!r}: a table has no layers to compute again")
        return self

    def read(self, shapes: Params, place: Place) -> Params:
        """The table whose softmax is `init`."""
        table = np.log(np.asarray(self.init, np.float32))[:, None]
        return {"table": jax.device_put(table, place(("table",)))}


class Tabular(nnx.Module):
    """Hidden states are 1, whatever the tokens."""

    def __init__(self, config: TabularConfig):
        self.table = parameter((config.vocab, 1), ("vocab", "embed"))

    def hidden(self, tokens: Int[Array, "n s"], position: Int[Array, "n s"], sight: Sight) -> Float[Array, "n s 1"]:
        """Ones: the table itself is what scores the answers."""
        return jnp.ones((*tokens.shape, 1), jnp.float32)

    def prefill(
        self, tokens: Int[Array, "b p"], position: Int[Array, "b p"], sight: Sight, rows: int, room: int
    ) -> tuple[Float[Array, "b 1"], tuple[()]]:
        """A hidden state of one, and no cache."""
        return jnp.ones((tokens.shape[0], 1), jnp.float32), ()

    def unrolled(self) -> "Tabular":
        """Itself: there is nothing to unroll."""
        return self

    def decode(
        self,
        cache: tuple[()],
        tokens: Int[Array, " n"],
        progress: Progress,
    ) -> tuple[Float[Array, "n 1"], tuple[()]]:
        """A hidden state of one, whatever was said before."""
        return jnp.ones((tokens.shape[0], 1), jnp.float32), ()


@dataclasses.dataclass(frozen=True)
class Actions:
    """The conversation of a game: every prompt is token 0; answers are named a … z, then by number."""

    vocab: int
    pad: int = 0
    stop: tuple[int, ...] = ()

    @property
    def fingerprints(self) -> dict[str, str]:
        return {"actions": str(self.vocab)}

    def dated(self, date: datetime.date) -> "Actions":
        return self

    def encode(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> list[int]:
        return [0]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(chr(ord("a") + i) if self.vocab <= 26 else str(i) for i in map(int, ids))
