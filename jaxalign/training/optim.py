"""Optimisers as optax chains: clipping, AdamW or plain gradient descent, and schedules of the learning rate."""

from collections.abc import Iterable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from jaxalign.types import Schedule

# Adam's second moment stays in fp32 whatever the policy computes in: with b2 = 0.999 bf16 loses every update.


@dataclass(frozen=True)
class Warmup:
    """What schedules with a linear warm-up state; how they fall is theirs to say."""

    peak: float
    """learning rate at the end of the warm-up"""
    warmup: float = 0.1
    """share of the fit's steps spent warming up, in [0, 1]"""
    floor: float = 0.0
    """learning rate that the fall comes to, one step after the last, as a share of the peak, in [0, 1]; 1: constant"""

    def problems(self) -> Iterable[str]:
        if not self.peak > 0:
            yield f"peak must be positive, got {self.peak}"
        for name, value in (("warmup", self.warmup), ("floor", self.floor)):
            if not 0 <= value <= 1:
                yield f"{name} must lie in [0, 1], got {value}"

    def rise(self, steps: int) -> int:
        """Steps of a fit of `steps` steps that are spent warming up."""
        return round(self.warmup * steps)


@dataclass(frozen=True)
class WarmupLinear(Warmup):
    """Linear warm-up to `peak`, then linear decay that would reach `floor · peak` one step after the last, as in
    transformers. A warm-up of a single step is at the peak already: fits of a few steps have none."""

    def schedule(self, steps: int) -> optax.Schedule:
        """Step → learning rate for a fit of `steps` steps."""
        warmup = self.rise(steps)
        rise = optax.linear_schedule(self.peak / max(warmup, 1), self.peak, max(warmup - 1, 1))
        fall = optax.linear_schedule(self.peak, self.floor * self.peak, max(steps - warmup, 1))
        return optax.join_schedules([rise, fall], [warmup]) if warmup else fall


@dataclass(frozen=True)
class WarmupCosine(Warmup):
    """Linear warm-up to `peak`, then half a cosine that would reach `floor · peak` one step after the last."""

    floor: float = 0.1

    def schedule(self, steps: int) -> optax.Schedule:
        """Step → learning rate for a fit of `steps` steps."""
        warmup = self.rise(steps)
        start = self.peak / max(warmup, 1)
        return optax.warmup_cosine_decay_schedule(
            start, self.peak, warmup, max(steps, warmup + 1), self.floor * self.peak
        )


@dataclass(frozen=True)
class AdamW:
    """AdamW (Loshchilov & Hutter 2017, arXiv 1711.05101) after clipping the global gradient norm."""

    learning_rate: Schedule
    """schedule over each fit, or over the run (`Fit.schedule`)"""
    b1: float = 0.9
    """decay of the first moment"""
    b2: float = 0.999
    """decay of the second moment"""
    eps: float = 1e-8
    """added to the root of the second moment"""
    weight_decay: float = 0.0
    """decoupled decay, applied to matrices only (norm scales and biases are left alone)"""
    clip: float = 1.0
    """largest global gradient norm; larger gradients are scaled down to it"""

    def problems(self) -> Iterable[str]:
        for name, value in (("b1", self.b1), ("b2", self.b2)):
            if not 0 <= value < 1:
                yield f"{name} must lie in [0, 1), got {value}"
        if not self.eps > 0:
            yield f"eps must be positive, got {self.eps}"
        if not self.clip > 0:
            yield f"clip must be positive, got {self.clip}"
        if self.weight_decay < 0:
            yield f"weight_decay must not be negative, got {self.weight_decay}"

    def build(self, steps: int) -> tuple[optax.GradientTransformation, optax.Schedule]:
        """The chain for a fit of `steps` steps, and its schedule for the log."""
        schedule = self.learning_rate.schedule(steps)
        chain = optax.chain(
            optax.clip_by_global_norm(self.clip),
            optax.scale_by_adam(self.b1, self.b2, self.eps, mu_dtype=jnp.float32),
            optax.add_decayed_weights(self.weight_decay, mask=_matrices),
            downhill(schedule),
        )
        return chain, schedule


@dataclass(frozen=True)
class GradientDescent:
    """Plain gradient descent at a constant rate: exact least squares for tabular policies."""

    learning_rate: float
    """constant rate, > 0"""

    def problems(self) -> Iterable[str]:
        if not self.learning_rate > 0:
            yield f"learning_rate must be positive, got {self.learning_rate}"

    def build(self, steps: int) -> tuple[optax.GradientTransformation, optax.Schedule]:
        """The transformation, and its constant schedule for the log."""
        del steps  # constant
        return optax.sgd(self.learning_rate), optax.constant_schedule(self.learning_rate)


def downhill(schedule: optax.Schedule) -> optax.GradientTransformationExtraArgs:
    """Updates times −schedule(step), at the `step` that a training step says (`Optimizer.build`).

    `optax.scale_by_learning_rate` counts the updates that its state has seen: kept from fit to fit the count would run
    over a schedule that each fit begins anew, and fresh in each it would never get into one that spans the run.
    """

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        *,
        step: Int[Array, ""],
        **_: object,
    ) -> tuple[optax.Updates, optax.OptState]:
        del params  # the rate is the same whatever they are
        rate = -1 * schedule(step)
        return jax.tree.map(lambda leaf: jnp.array(rate, leaf.dtype) * leaf, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _matrices(params: optax.Params) -> optax.Params:
    """True for weights with two or more axes besides that of stacked blocks: what weight decay applies to."""

    def decays(path: tuple[jax.tree_util.KeyEntry, ...], leaf: jax.Array) -> bool:
        stacked = any(isinstance(key, jax.tree_util.DictKey) and key.key == "blocks" for key in path)
        return leaf.ndim - stacked >= 2

    return jax.tree_util.tree_map_with_path(decays, params)


EXAMPLES = (
    WarmupLinear(peak=1e-3),
    WarmupCosine(peak=1e-3),
    AdamW(WarmupLinear(peak=1e-3), weight_decay=0.1),
    GradientDescent(0.1),
)
