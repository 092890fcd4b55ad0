"""Scores of answers: log-probs, and log-ratios to a reference, summed or by the token."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.contracts.extras import extras_of
from jaxalign.losses.parts.contract import Score, grows_exponentially
from jaxalign.losses.parts.settings import positive
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class LogRatio:
    """log π/π_reference(y), summed over tokens."""

    against: Literal["anchor", "last"] = "anchor"
    """the reference: the anchor, or the policy that sampled"""

    compared: ClassVar[bool] = True

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.against,)

    def __call__(self, logps: GroupLogps) -> Float[Array, "b r"]:
        reference = logps.anchor if self.against == "anchor" else logps.last
        assert reference is not None
        return logps.sums - reference


@dataclass(frozen=True)
class Logp:
    """log π(y), summed over tokens: no reference."""

    compared: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ()

    def __call__(self, logps: GroupLogps) -> Float[Array, "b r"]:
        return logps.sums


@dataclass(frozen=True)
class TokenMean:
    """Another score, divided by the answer's tokens."""

    of: Score = LogRatio()
    """what is divided"""

    @property
    def compared(self) -> bool:
        return self.of.compared

    @property
    def needs(self) -> tuple[str, ...]:
        return self.of.needs

    @property
    def extras(self) -> tuple[str, ...]:
        return extras_of(self.of)

    @property
    def exponential(self) -> bool:
        return grows_exponentially(self.of)

    def problems(self) -> Iterable[str]:
        if isinstance(self.of, TokenMean | LogOdds | PowerMean):
            yield f"{type(self.of).__name__} is a mean over tokens already"

    def __call__(self, logps: GroupLogps) -> Float[Array, "b r"]:
        return self.of(logps) / token_counts(logps)


@dataclass(frozen=True)
class LogOdds:
    """log P/(1 − P), where log P is the mean of the tokens' log-probs: no reference. Of P > 1 − 1e-6 that of it."""

    compared: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ()

    def __call__(self, logps: GroupLogps) -> Float[Array, "b r"]:
        mean = jnp.minimum(logps.sums / token_counts(logps), -1e-6)
        return mean - jnp.log(-jnp.expm1(mean))


@dataclass(frozen=True)
class PowerMean:
    """(1 − P^−alpha)/alpha, where log P is the mean of the tokens' log-probs: no reference. alpha → 0 is log P."""

    alpha: float = 0.25
    """above 0 unlikely answers count more, below 0 less; other than 0"""

    compared: ClassVar[bool] = False
    exponential: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ()

    def problems(self) -> Iterable[str]:
        if abs(self.alpha) < 1e-3:
            yield f"alpha {self.alpha} is the mean log-prob but for rounding: take TokenMean(Logp())"

    def __call__(self, logps: GroupLogps) -> Float[Array, "b r"]:
        mean = logps.sums / token_counts(logps)
        # e^80 is 5e34, and fp32 ends at 3e38
        return -jnp.expm1(jnp.minimum(-self.alpha * mean, 80.0)) / self.alpha


@dataclass(frozen=True)
class LongTail:
    """log π/π_anchor(y) with what one answer of a pair is longer than the other counted in part."""

    alpha: float = 0.5
    """share of tokens beyond the length of the shorter answer, in [0, 1]; 1 is LogRatio"""

    compared: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("anchor",)
    extras: ClassVar[tuple[str, ...]] = ("anchor_tokens",)

    def problems(self) -> Iterable[str]:
        if not 0 <= self.alpha <= 1:
            yield f"alpha must lie in [0, 1], got {self.alpha}"

    def __call__(self, logps: GroupLogps) -> Float[Array, "b r"]:
        assert logps.anchor_tokens is not None
        ratios = jnp.where(logps.mask, logps.tokens - logps.anchor_tokens, 0.0)
        place = jnp.arange(ratios.shape[-1], dtype=logps.lengths.dtype)
        shared = logps.lengths.min(-1, keepdims=True)[..., None] > place[None, None]
        return jnp.where(shared, ratios, self.alpha * ratios).sum(-1)


@dataclass(frozen=True)
class EditedTokens:
    """log π/π_anchor(y) with the tokens in which the answers of a pair differ counted more, unlikely ones most: each
    policy by what is unlikely to it."""

    most: float = 2.0
    """upper bound of what 1/π(y_t) adds to the weight of such a token, > 0"""
    ignored: tuple[int, ...] = ()
    """ids of tokens that count as others do though they differ, as those of words that say little"""

    compared: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("anchor",)
    extras: ClassVar[tuple[str, ...]] = ("anchor_tokens", "edited")

    def problems(self) -> Iterable[str]:
        yield from positive(most=self.most)
        if any(not 0 <= each < 2**31 for each in self.ignored):
            yield f"ignored must be ids of tokens, got {self.ignored}"

    def __call__(self, logps: GroupLogps) -> Float[Array, "b r"]:
        assert logps.anchor_tokens is not None
        assert logps.edited is not None
        counted = logps.edited >= 0
        if self.ignored:
            counted &= ~jnp.isin(logps.edited, jnp.array(self.ignored))

        def weighted(tokens: Float[Array, "b r t"]) -> Float[Array, "b r t"]:
            # bounded as logarithms: 1/π of an unlikely token is beyond fp32
            more = jnp.exp(jnp.minimum(jax.lax.stop_gradient(-tokens), math.log(self.most)))
            return (1 + jnp.where(counted, more, 0.0)) * tokens

        return jnp.where(logps.mask, weighted(logps.tokens) - weighted(logps.anchor_tokens), 0.0).sum(-1)


def token_counts(logps: GroupLogps) -> Float[Array, "b r"]:
    """Scored tokens of each answer; 1 for one that has none, whose sums are 0."""
    return jnp.maximum(logps.lengths, 1).astype(jnp.float32)


EXAMPLES = (LogRatio(), Logp(), TokenMean(Logp()), LogOdds(), PowerMean(0.25), LongTail(0.5), EditedTokens())
