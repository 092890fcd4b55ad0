"""Links that read each score by itself: whether an answer is likelier than under the reference, not only than the
other."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import jax
from jaxtyping import Array, Float

from jaxalign.losses.parts.settings import positive


@dataclass(frozen=True)
class NoiseContrastive:
    """−log σ(beta better) − ½ log σ(−beta better) − ½ log σ(−beta worse)"""

    beta: float = 0.1
    """scale, > 0"""

    absolute: ClassVar[bool] = True

    def problems(self) -> Iterable[str]:
        yield from positive(beta=self.beta)

    def __call__(self, better: Float[Array, " b"], worse: Float[Array, " b"]) -> Float[Array, " b"]:
        up, down = jax.nn.log_sigmoid(self.beta * better), jax.nn.log_sigmoid(-self.beta * better)
        return -up - (down + jax.nn.log_sigmoid(-self.beta * worse)) / 2


@dataclass(frozen=True)
class Classifier:
    """−log σ(beta better) − log σ(−beta worse)"""

    beta: float = 0.1
    """scale, > 0"""

    absolute: ClassVar[bool] = True

    def problems(self) -> Iterable[str]:
        yield from positive(beta=self.beta)

    def __call__(self, better: Float[Array, " b"], worse: Float[Array, " b"]) -> Float[Array, " b"]:
        return -jax.nn.log_sigmoid(self.beta * better) - jax.nn.log_sigmoid(-self.beta * worse)


@dataclass(frozen=True)
class UpAndDown:
    """1 − σ(beta better) + σ(beta worse)"""

    beta: float = 0.1
    """scale, > 0"""

    absolute: ClassVar[bool] = True

    def problems(self) -> Iterable[str]:
        yield from positive(beta=self.beta)

    def __call__(self, better: Float[Array, " b"], worse: Float[Array, " b"]) -> Float[Array, " b"]:
        return jax.nn.sigmoid(-self.beta * better) + jax.nn.sigmoid(self.beta * worse)


@dataclass(frozen=True)
class BothDown:
    """σ(beta better) + 1 − σ(beta (better − worse))"""

    beta: float = 0.1
    """scale, > 0"""

    absolute: ClassVar[bool] = True

    def problems(self) -> Iterable[str]:
        yield from positive(beta=self.beta)

    def __call__(self, better: Float[Array, " b"], worse: Float[Array, " b"]) -> Float[Array, " b"]:
        return jax.nn.sigmoid(self.beta * better) + jax.nn.sigmoid(-self.beta * (better - worse))


@dataclass(frozen=True)
class EachSquared:
    """(better − eta/2)² + (worse + eta/2)²"""

    eta: float = 1e3
    """distance that is asked for between the two, > 0"""

    absolute: ClassVar[bool] = True
    squares: ClassVar[bool] = True

    def problems(self) -> Iterable[str]:
        yield from positive(eta=self.eta)

    def __call__(self, better: Float[Array, " b"], worse: Float[Array, " b"]) -> Float[Array, " b"]:
        return (better - self.eta / 2) ** 2 + (worse + self.eta / 2) ** 2


EXAMPLES = (NoiseContrastive(), Classifier(), UpAndDown(), BothDown(), EachSquared(10.0))
