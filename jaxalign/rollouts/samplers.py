"""Samplers: next-token logits → a token. Each row brings its own key, so its draw does not depend on its neighbours."""

from collections.abc import Iterable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


@dataclass(frozen=True)
class Greedy:
    """The most likely token; ties go to the lowest id."""

    def __call__(self, logits: Float[Array, "b v"], keys: Key[Array, " b"]) -> Int[Array, " b"]:
        del keys  # nothing is drawn
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)


@dataclass(frozen=True)
class Temperature:
    """A draw from softmax(logits / temperature): at 1 the policy itself, as on-policy methods assume."""

    temperature: float = 1.0
    """> 0; below 1 sharper, above 1 flatter than the policy"""

    def problems(self) -> Iterable[str]:
        yield from _positive_temperature(self.temperature)

    def __call__(self, logits: Float[Array, "b v"], keys: Key[Array, " b"]) -> Int[Array, " b"]:
        return _draw(logits / self.temperature, keys)


@dataclass(frozen=True)
class TopK:
    """A draw from softmax(logits / temperature) restricted to the k most likely tokens."""

    k: int
    """tokens kept, ≥ 1; tokens tied with the k-th are kept too"""
    temperature: float = 1.0
    """> 0"""

    def problems(self) -> Iterable[str]:
        yield from _positive_temperature(self.temperature)
        if self.k < 1:
            yield f"k must be at least 1, got {self.k}"

    def __call__(self, logits: Float[Array, "b v"], keys: Key[Array, " b"]) -> Int[Array, " b"]:
        least_kept = jax.lax.top_k(logits, min(self.k, logits.shape[-1]))[0][:, -1:]
        return _draw(jnp.where(logits >= least_kept, logits, -jnp.inf) / self.temperature, keys)


@dataclass(frozen=True)
class TopP:
    """Nucleus sampling (Holtzman et al. 2019, arXiv 1904.09751): the smallest set of most likely tokens with mass ≥ p.

    Temperature is applied first, as in transformers and vLLM; the most likely token is always kept.
    """

    p: float = 0.95
    """probability mass kept, in (0, 1]"""
    temperature: float = 1.0
    """> 0"""

    def problems(self) -> Iterable[str]:
        yield from _positive_temperature(self.temperature)
        if not 0 < self.p <= 1:
            yield f"p must lie in (0, 1], got {self.p}"

    def __call__(self, logits: Float[Array, "b v"], keys: Key[Array, " b"]) -> Int[Array, " b"]:
        scaled = logits / self.temperature
        ranked = -jnp.sort(-scaled, axis=-1)
        probs = jax.nn.softmax(ranked, axis=-1)
        before = jnp.cumsum(probs, axis=-1) - probs  # mass of the strictly more likely tokens
        least_kept = jnp.where(before < self.p, ranked, jnp.inf).min(axis=-1, keepdims=True)
        return _draw(jnp.where(scaled >= least_kept, scaled, -jnp.inf), keys)


def _draw(logits: Float[Array, "b v"], keys: Key[Array, " b"]) -> Int[Array, " b"]:
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


def _positive_temperature(temperature: float) -> Iterable[str]:
    if not temperature > 0:
        yield f"temperature must be positive, got {temperature}; for the most likely token use Greedy()"


EXAMPLES = (Greedy(), Temperature(0.8), TopK(k=3), TopP(p=0.7))
