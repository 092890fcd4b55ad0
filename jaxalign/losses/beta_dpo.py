"""β-DPO: a beta for each batch, larger where pairs are told apart more than usual, and outliers left out. Wu et al.
2024 (arXiv 2407.08639), as its released code has it.

    loss   = −log σ( beta_t A ) of the pairs that are kept
    beta_t = max( beta ( 1 + alpha ( mean of A over those kept − m ) ), least )
    A      = [log π/π_anchor](chosen) − [log π/π_anchor](rejected)

m and s are running mean and deviation of A, each 0.9 of what they were and 0.1 of the batch's own, from 0 on; they take
in a batch before its loss. A share `drop` of the batch is left out: the others are drawn without replacement with
weights exp( −½ ((A − m)/s)² ), by noise that the number of the step decides, whatever the run's seed. No gradient flows
through beta_t, m and s. All of it is over all groups of an optimizer's step; a group's weight counts in the mean of the
loss and not in these. s is a thousandth of a nat at least: at the anchor itself margins are rounding, which must not
decide who is kept. Of an uncertain label the likelier answer is the chosen one. Held-out pairs are scored by DPO's loss
with `beta`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxalign.losses.parts.compared import oriented
from jaxalign.losses.parts.scores import LogRatio
from jaxalign.losses.parts.settings import positive, within
from jaxalign.types import GroupLogps

KEPT = 0.9
"""Of the running mean and deviation, from step to step."""
NARROWEST = 1e-3
"""Least deviation (nats) that pairs are weighed by."""


@dataclass(frozen=True)
class BetaDPO:
    """DPO's loss (nats) of the pairs that are kept, with the batch's beta."""

    beta: float = 0.1
    """scale of the implicit reward where margins are as usual, > 0"""
    alpha: float = 0.6
    """how fast it grows with the margins, a nat, >= 0"""
    drop: float = 0.2
    """share of a batch that is left out, in [0, 1)"""
    least: float = 1e-3
    """of a batch's beta, > 0"""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)
    extras: ClassVar[tuple[str, ...]] = ("batch",)

    def problems(self) -> Iterable[str]:
        yield from positive(beta=self.beta, least=self.least)
        yield from within(0.0, 1.0, drop=self.drop)
        if not self.alpha >= 0:
            yield f"alpha must not be negative, got {self.alpha}"

    def begin(self) -> Mapping[str, float]:
        """Running mean and deviation of margins (nats), and the steps taken."""
        return {"margin_mean": 0.0, "margin_deviation": 0.0, "steps": 0.0}

    def remember(self, logps: GroupLogps) -> Mapping[str, Float[Array, ""]]:
        """With this batch taken in."""
        assert logps.weight is not None
        assert logps.memory is not None
        gaps, counts = jax.lax.stop_gradient(margins(logps)), logps.weight > 0
        number = counts.sum().astype(jnp.float32)
        mean = mean_of(gaps, counts)
        spread = jnp.sqrt(mean_of((gaps - mean) ** 2, counts) * number / jnp.maximum(number - 1, 1))
        before = {name: values[0] for name, values in logps.memory.items()}
        return {
            "margin_mean": KEPT * before["margin_mean"] + (1 - KEPT) * mean,
            "margin_deviation": KEPT * before["margin_deviation"] + (1 - KEPT) * spread,
            "steps": before["steps"] + 1,
        }

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        gaps = margins(logps)
        if logps.memory is None:
            return -jax.nn.log_sigmoid(self.beta * gaps)
        assert logps.weight is not None
        usual = self.remember(logps)
        held = jax.lax.stop_gradient(gaps)
        kept = self.kept(held, logps.weight > 0, usual)
        beta = jnp.maximum(self.beta * (1 + self.alpha * (mean_of(held, kept) - usual["margin_mean"])), self.least)
        share = logps.weight.sum() / jnp.maximum(jnp.where(kept, logps.weight, 0.0).sum(), 1e-30)
        return jnp.where(kept, -share * jax.nn.log_sigmoid(beta * gaps), 0.0)

    def kept(
        self, gaps: Float[Array, " b"], counts: Bool[Array, " b"], usual: Mapping[str, Float[Array, ""]]
    ) -> Bool[Array, " b"]:
        """Which pairs are: those of the largest sums of a log-weight and Gumbel noise, which draws without
        replacement."""
        key = jax.random.fold_in(jax.random.key(0), usual["steps"].astype(jnp.int32))
        wide = jnp.maximum(usual["margin_deviation"], NARROWEST)
        order = jax.random.gumbel(key, gaps.shape) - ((gaps - usual["margin_mean"]) / wide) ** 2 / 2
        rank = jnp.argsort(jnp.argsort(jnp.where(counts, -order, jnp.inf)))
        # The code counts the same way; a little above, since fp32 has 1 − 0.2 a little below 0.8.
        wanted = jnp.floor(counts.sum().astype(jnp.float32) * (1 - self.drop) + 1e-4).astype(jnp.int32)
        return counts & (rank < jnp.maximum(wanted, 1))


def margins(logps: GroupLogps) -> Float[Array, " b"]:
    """A, nats."""
    ratios = oriented(logps, LogRatio()(logps))
    return ratios[:, 0] - ratios[:, 1]


def mean_of(values: Float[Array, " b"], which: Bool[Array, " b"]) -> Float[Array, ""]:
    """Over those that count; 0 where none does."""
    return jnp.where(which, values, 0.0).sum() / jnp.maximum(which.sum(), 1).astype(jnp.float32)


EXAMPLE = BetaDPO(beta=0.1)
