"""A compiled program seen from outside: what it is lowered from, and what one call of it does."""

from dataclasses import dataclass
from typing import Any

import jax


@dataclass(frozen=True)
class Work:
    """What one call of a program does, over all devices."""

    tokens: int
    """what its speed is counted in: tokens of the training rows, tokens drawn by a rollout, answers of a head that is
    trained alone"""
    rows_tokens: int
    """tokens that go through the layers"""
    scored: int
    """tokens that go through the head"""
    row: int
    """tokens that one attends to at most"""
    passes: tuple[str, ...]
    """"train" for forward and backward, "forward" or "backward" for one of them alone"""
    microbatches: int = 1
    """parts that the rows go through one after the other"""
    cached: int = 0
    """rows that keep keys and values"""
    kept: int = 0
    """tokens whose keys and values are kept: those of rows, and of prompts once"""


@dataclass(frozen=True)
class Program:
    """A program, ready to be lowered."""

    name: str
    function: Any
    arguments: tuple[Any, ...]
    work: Work
    resident: int = 0
    """bytes that a run keeps on each device beside the arguments"""
    model: Any = None
    """whose program it is; None: the policy's"""

    def lower(self) -> Any:
        """For the platform of the arguments' shardings."""
        platform = jax.tree.leaves(self.arguments)[0].sharding.mesh.devices.flat[0].platform
        lowering = {"gpu": "cuda"}.get(platform, platform)  # devices name the kind of machine, rules the vendor
        return self.function.trace(*self.arguments).lower(lowering_platforms=(lowering,))
