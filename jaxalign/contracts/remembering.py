"""Losses that remember numbers from one optimizer step to the next.

What is remembered is part of the training state: it is checkpointed with the parameters, a fit begins without any, and
it is logged as `memory/…`. It is made of all groups of a step at once, so such a loss reads "batch" (see `extras`) and
is the same however a batch is split over microbatches and devices. Held-out pairs are scored without a memory.
"""

import dataclasses
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.types import GroupLogps

PREFIX = "memory/"
"""Of the names under which what is remembered stands among a step's metrics."""


@runtime_checkable
class Remembers(Protocol):
    """A loss that reads `GroupLogps.memory`: its numbers as they were before the step, the same for every group; None
    where there is no fit."""

    def begin(self) -> Mapping[str, float]:
        """What is remembered before the first step."""
        ...

    def remember(self, logps: GroupLogps) -> Mapping[str, Float[Array, ""]]:
        """The same numbers after the step of these groups. Traced; no gradient flows through them."""
        ...


def begun(loss: object) -> dict[str, Float[Array, ""]]:
    """What `loss` begins a fit with."""
    return {name: jnp.float32(value) for name, value in loss.begin().items()} if isinstance(loss, Remembers) else {}


def recalling(logps: GroupLogps, memory: Mapping[str, Float[Array, ""]]) -> GroupLogps:
    """What a loss sees, with its memory beside every group: groups of several microbatches are joined along them."""
    groups = logps.prefer.shape
    return dataclasses.replace(logps, memory={name: jnp.broadcast_to(value, groups) for name, value in memory.items()})


def told(loss: object, logps: GroupLogps) -> dict[str, Float[Array, ""]]:
    """What `loss` remembers after the step, as metrics."""
    if not isinstance(loss, Remembers):
        return {}
    return {PREFIX + name: value for name, value in loss.remember(logps).items()}


def recalled(metrics: Mapping[str, Array]) -> dict[str, Array]:
    """What is remembered after the step, of its metrics."""
    return {name.removeprefix(PREFIX): value for name, value in metrics.items() if name.startswith(PREFIX)}
