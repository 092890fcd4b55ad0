"""Samplers: next-token logits → a token. Each row brings its own key, so its draw does not depend on its neighbours."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxalign.mesh.rounding import rounded

BLOCKS = 256
"""Blocks of the vocabulary that a draw chooses among, where so many divide it: about its root."""

LEAST_BLOCKS = 16
"""Vocabularies that not even so many divide are padded: few are, and on a mesh that splits one, columns move."""


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
    """A draw from softmax(logits): of a block of the vocabulary by its mass, then of a token of that block.

    Both by the largest of Gumbel-perturbed log-masses (`jax.random.categorical`): -inf is never the largest beside a
    finite one, so nothing masked is drawn.
    """
    # A random number for every logit costs more than all else in a draw: 49,152 a row, here 256 + 192. Log-masses
    # of blocks are right to some 1e-6 nats, so every token's probability is to a millionth of itself; the boundaries of
    # a running sum over the vocabulary would be off by 1e-7 of all mass, more than many a token has. What is left is
    # Gumbel's in fp32, which ends at 15.9: masses below some 1e-7 are drawn too rarely, as they are without blocks.
    blocks = _blocks(logits)
    of_block, of_token = jax.vmap(jax.random.split, out_axes=1)(keys)
    block = _largest(jax.nn.logsumexp(blocks, axis=-1), of_block)
    within = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    return block * blocks.shape[-1] + _largest(within, of_token)


def _blocks(logits: Float[Array, "b v"]) -> Float[Array, "b block width"]:
    """At most `BLOCKS` blocks of neighbours a row. Their number divides the vocabulary, and a power of two: a mesh that
    splits the vocabulary has whole blocks on each device, and only the one drawn from travels."""
    rows, vocab = logits.shape
    padded = rounded(vocab, LEAST_BLOCKS)
    if padded > vocab:
        logits = jnp.pad(logits, ((0, 0), (0, padded - vocab)), constant_values=-jnp.inf)
    return logits.reshape(rows, math.gcd(padded, BLOCKS), -1)


def _largest(logits: Float[Array, "b v"], keys: Key[Array, " b"]) -> Int[Array, " b"]:
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


def _positive_temperature(temperature: float) -> Iterable[str]:
    if not temperature > 0:
        yield f"temperature must be positive, got {temperature}; for the most likely token use Greedy()"


EXAMPLES = (Greedy(), Temperature(0.8), TopK(k=3), TopP(p=0.7))
