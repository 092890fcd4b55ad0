"""Links that read the difference of two scores: how far the better answer is ahead."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.losses.parts.settings import positive, within


@dataclass(frozen=True)
class Logistic:
    """−(1 − e) log σ(z) − e log σ(−z),    z = beta (better − worse − ahead)"""

    beta: float = 0.1
    """scale, > 0"""
    ahead: float = 0.0
    """how far the better answer should be ahead, in the unit of the score"""
    smoothing: float = 0.0
    """e: how often labels are taken to be wrong, in [0, 1/2)"""

    absolute: ClassVar[bool] = False

    def problems(self) -> Iterable[str]:
        yield from positive(beta=self.beta)
        yield from within(0.0, 0.5, smoothing=self.smoothing)

    def __call__(self, better: Float[Array, " b"], worse: Float[Array, " b"]) -> Float[Array, " b"]:
        z = self.beta * (better - worse - self.ahead)
        right = -jax.nn.log_sigmoid(z)
        return right if self.smoothing == 0 else (1 - self.smoothing) * right - self.smoothing * jax.nn.log_sigmoid(-z)


@dataclass(frozen=True)
class Robust:
    """[ −(1 − e) log σ(z) + e log σ(−z) ] / (1 − 2e),    z = beta (better − worse)

    Unbiased: if labels are flipped with probability e its expectation is the logistic loss of the true ones. It has no
    lower bound.
    """

    beta: float = 0.1
    """scale, > 0"""
    flips: float = 0.1
    """e: how often labels are wrong, in [0, 1/2)"""

    absolute: ClassVar[bool] = False

    def problems(self) -> Iterable[str]:
        yield from positive(beta=self.beta)
        yield from within(0.0, 0.5, flips=self.flips)

    def __call__(self, better: Float[Array, " b"], worse: Float[Array, " b"]) -> Float[Array, " b"]:
        z = self.beta * (better - worse)
        seen = -(1 - self.flips) * jax.nn.log_sigmoid(z) + self.flips * jax.nn.log_sigmoid(-z)
        return seen / (1 - 2 * self.flips)


@dataclass(frozen=True)
class Hinge:
    """max(0, ahead − beta (better − worse))"""

    beta: float = 0.1
    """scale, > 0"""
    ahead: float = 1.0
    """where it ends"""

    absolute: ClassVar[bool] = False

    def problems(self) -> Iterable[str]:
        yield from positive(beta=self.beta)

    def __call__(self, better: Float[Array, " b"], worse: Float[Array, " b"]) -> Float[Array, " b"]:
        return jax.nn.relu(self.ahead - self.beta * (better - worse))


@dataclass(frozen=True)
class Squared:
    """(better − worse − 1/(2 tau))²"""

    tau: float = 0.1
    """half the inverse of the distance that is asked for, > 0"""

    absolute: ClassVar[bool] = False
    squares: ClassVar[bool] = True

    def problems(self) -> Iterable[str]:
        yield from positive(tau=self.tau)

    def __call__(self, better: Float[Array, " b"], worse: Float[Array, " b"]) -> Float[Array, " b"]:
        return (better - worse - 1 / (2 * self.tau)) ** 2


@dataclass(frozen=True)
class ReverseCrossEntropy:
    """KL( (σ(z), σ(−z)) ‖ (1 − e, e) ),    z = beta (better − worse)"""

    beta: float = 0.1
    """scale, > 0"""
    smoothing: float = 1e-3
    """e: probability left to the worse answer, in (0, 1/2)"""

    absolute: ClassVar[bool] = False

    def problems(self) -> Iterable[str]:
        yield from positive(beta=self.beta, smoothing=self.smoothing)
        yield from within(0.0, 0.5, smoothing=self.smoothing)

    def __call__(self, better: Float[Array, " b"], worse: Float[Array, " b"]) -> Float[Array, " b"]:
        z = self.beta * (better - worse)
        right, wrong = jax.nn.log_sigmoid(z), jax.nn.log_sigmoid(-z)
        kept, left = math.log1p(-self.smoothing), math.log(self.smoothing)
        return jnp.exp(right) * (right - kept) + jnp.exp(wrong) * (wrong - left)


@dataclass(frozen=True)
class Modulated:
    """−(1 − m) log σ(z) + m e^−z,    m = σ(z / tau),    z = beta (better − worse)"""

    beta: float = 0.05
    """scale, > 0"""
    tau: float = 0.05
    """how fast one branch gives way to the other, in (0, 1): beyond, the exponential would have no bound"""

    absolute: ClassVar[bool] = False

    def problems(self) -> Iterable[str]:
        yield from positive(beta=self.beta, tau=self.tau)
        yield from within(0.0, 1.0, tau=self.tau)

    def __call__(self, better: Float[Array, " b"], worse: Float[Array, " b"]) -> Float[Array, " b"]:
        z = self.beta * (better - worse)
        # One exponential for both factors: of a z of −500 m is 0 and e^−z infinite.
        exponential = jnp.exp(jax.nn.log_sigmoid(z / self.tau) - z)
        return -jax.nn.sigmoid(-z / self.tau) * jax.nn.log_sigmoid(z) + exponential


EXAMPLES = (
    Logistic(0.1, 0.5, 0.1),
    Robust(0.1, 0.2),
    Hinge(0.1),
    Squared(0.5),
    ReverseCrossEntropy(0.1, 1e-3),
    Modulated(0.05, 0.05),
)
