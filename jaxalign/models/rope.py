"""Rotary positions: the angle of each pair of a head at each position, and its scalings for longer contexts.

RoPE: Su et al. 2021 (2104.09864), with the two halves of a head as the pair ("rotate half"). Linear scaling: Chen et
al. 2023 (2306.15595). Llama 3's scaling by wavelength: Llama 3.1 (2407.21783) and its released configs.
"""

import dataclasses
import math
from collections.abc import Iterable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Angles = tuple[Float[Array, "n s 1 half"], Float[Array, "n s 1 half"]]
"""cos and sin"""


@dataclasses.dataclass(frozen=True)
class Linear:
    """Every frequency divided by `factor`: positions count as if they were closer together."""

    factor: float

    def __call__(self, frequency: Float[Array, " half"]) -> Float[Array, " half"]:
        return frequency / self.factor


@dataclasses.dataclass(frozen=True)
class Llama3:
    """Wavelengths beyond `context` / `low` are stretched by `factor`, those below `context` / `high` kept.

    In between, frequencies are blended: (1 - m) · f / factor + m · f with m = (context / wavelength - low) / (high -
    low). `context` is the length, in tokens, that the model was first trained on.
    """

    factor: float
    low: float
    high: float
    context: int

    def __call__(self, frequency: Float[Array, " half"]) -> Float[Array, " half"]:
        wavelength = 2 * math.pi / frequency
        blend = (self.context / wavelength - self.low) / (self.high - self.low)
        blended = (1 - blend) * frequency / self.factor + blend * frequency
        scaled = jnp.where(wavelength > self.context / self.low, frequency / self.factor, blended)
        return jnp.where(wavelength < self.context / self.high, frequency, scaled)


@dataclasses.dataclass(frozen=True)
class Rope:
    """base^(-2i/h) turns a token for pair i, then scaled."""

    base: float = 1e4
    scaling: Linear | Llama3 | None = None

    def problems(self) -> Iterable[str]:
        """What makes these rotations impossible."""
        if self.base <= 0:
            yield f"the base of rotations must be positive, got {self.base}"
        if self.scaling is not None and self.scaling.factor <= 0:
            yield f"the factor of a RoPE scaling must be positive, got {self.scaling.factor}"
        if isinstance(self.scaling, Llama3) and not 0 < self.scaling.low < self.scaling.high:
            yield f"RoPE scaling needs 0 < low < high, got {self.scaling.low} and {self.scaling.high}"

    def frequencies(self, head_dim: int) -> Float[Array, " half"]:
        """Radians a token, fp32, one for each of the h/2 pairs."""
        plain = self.base ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
        return plain if self.scaling is None else self.scaling(plain)


def angles(position: Int[Array, "n s"], frequency: Float[Array, " half"]) -> Angles:
    """cos and sin of position · frequency, fp32."""
    turn = position.astype(jnp.float32)[..., None, None] * frequency[None, None, None]
    return jnp.cos(turn), jnp.sin(turn)


def rotate(x: Float[Array, "n s k h"], turn: Angles) -> Float[Array, "n s k h"]:
    """Each pair (x[i], x[i + h/2]) turned by its angle."""
    cos, sin = turn
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)
