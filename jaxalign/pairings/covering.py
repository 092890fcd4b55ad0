"""The best answer among worse ones of every kind: AMPO's selections by embeddings. Gupta et al. 2025 (arXiv
2502.18293).

With many samples the worst ones say nearly the same. Of the m answers to a prompt the best rated one stands first, and
k = `responses` − 1 of the others follow, the worst at once:

    BestCoreset    of each of k clusters of the others (k-means on embeddings) the worst rated one
    BestMedoids    those S of the others with the least Σ_i e^(mean r − r_i) min_{j in S} ‖e_i − e_j‖

r are ratings and e embeddings of the texts. The sum of medoids is made less by exchanging one answer at a time, from
the worst k on, until no exchange helps; such a local search is among the paper's own ways. The paper embeds by a
language model; here any function of the texts does, and the default counts runs of three characters. Groups are no
i.i.d. draws from the policy: nothing is certified.
"""

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from jaxalign.errors import BrokenContract
from jaxalign.pairings.lists import lists
from jaxalign.pairings.ratings import By, distinct, rated
from jaxalign.types import Groups, Preferences, Rollouts


@runtime_checkable
class Embedding(Protocol):
    """Texts → a vector for each, of whatever length. Pure."""

    def __call__(self, texts: tuple[str, ...]) -> Float[np.ndarray, "m d"]: ...


@dataclass(frozen=True)
class Trigrams:
    """How often runs of three characters occur, each run counted at a place that its checksum says; of length 1."""

    size: int = 256
    """places, >= 2"""

    def problems(self) -> Iterable[str]:
        if self.size < 2:
            yield f"size must be at least 2, got {self.size}"

    def __call__(self, texts: tuple[str, ...]) -> Float[np.ndarray, "m d"]:
        found = np.zeros((len(texts), self.size))
        for row, text in zip(found, texts, strict=True):
            padded = f"  {text}  "
            for start in range(len(padded) - 2):
                row[zlib.crc32(padded[start : start + 3].encode()) % self.size] += 1
        return found / np.linalg.norm(found, axis=1, keepdims=True)


@dataclass(frozen=True)
class BestCoreset:
    """One group for each prompt that has as many different texts: the best one, and the worst of each cluster."""

    responses: int = 4
    """answers of a group, >= 2"""
    embedding: Embedding = Trigrams()
    """what says how alike answers are"""
    by: By = "score"
    """what rates answers"""

    def problems(self) -> Iterable[str]:
        yield from size_problems(self.responses)

    def __call__(self, rollouts: Rollouts, preferences: Preferences, key: PRNGKeyArray) -> Groups:
        drawn = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel().tolist())

        def picked(values: np.ndarray, vectors: np.ndarray, count: int) -> list[int]:
            clusters = k_means(vectors, count, drawn)
            own = (np.flatnonzero(clusters == each) for each in np.unique(clusters))
            return [int(each[np.argmin(values[each])]) for each in own]

        return covered(rollouts, preferences, self.responses, self.embedding, self.by, picked)


@dataclass(frozen=True)
class BestMedoids:
    """One group for each prompt that has as many different texts: the best one, and those nearest to all bad ones."""

    responses: int = 4
    """answers of a group, >= 2"""
    embedding: Embedding = Trigrams()
    """what says how alike answers are"""
    by: By = "score"
    """what rates answers"""

    def problems(self) -> Iterable[str]:
        yield from size_problems(self.responses)

    def __call__(self, rollouts: Rollouts, preferences: Preferences, key: PRNGKeyArray) -> Groups:
        del key

        def picked(values: np.ndarray, vectors: np.ndarray, count: int) -> list[int]:
            apart = np.linalg.norm(vectors[:, None] - vectors[None], axis=-1)
            # Of ratings as far below the mean as fp64 can tell: weights are taken relative to the largest.
            return medoids(np.exp(values.min() - values), apart, np.argsort(values, kind="stable")[:count].tolist())

        return covered(rollouts, preferences, self.responses, self.embedding, self.by, picked)


Pick = Callable[[np.ndarray, np.ndarray, int], list[int]]
"""(ratings, vectors, how many) → places of those that stand for all."""


def covered(
    rollouts: Rollouts, preferences: Preferences, responses: int, embedding: Embedding, by: By, picked: Pick
) -> Groups:
    """Groups of the best answer and of those that are picked of the others; the worst fill up what is too few."""
    prompts, rows = [], []
    for prompt, (texts, values) in enumerate(zip(rollouts.texts, rated(preferences, by), strict=True)):
        best, *others = distinct(texts, values)
        if len(others) < responses - 1:
            continue
        vectors = np.asarray(embedding(tuple(texts[each] for each in others)), np.float64)
        if vectors.ndim != 2 or len(vectors) != len(others) or not np.isfinite(vectors).all():
            raise BrokenContract(
                f"embedding {type(embedding).__name__}: must return a finite vector a text, [{len(others)} d], got "
                f"{list(vectors.shape)}{'' if np.isfinite(vectors).all() else ', not all finite'}"
            )
        found = picked(values[others], vectors, responses - 1)
        found += [place for place in reversed(range(len(others))) if place not in found][: responses - 1 - len(found)]
        prompts.append(prompt)
        rows.append([best, *(others[place] for place in sorted(found, reverse=True))])
    return lists(rollouts, preferences, np.array(prompts, np.int64), np.array(rows, np.int64).reshape(-1, responses))


def k_means(vectors: Float[np.ndarray, "n d"], count: int, drawn: np.random.Generator) -> np.ndarray:
    """Int[n]: clusters, `count` of them or fewer, from centres that are drawn apart (Arthur & Vassilvitskii 2007)."""
    centres = vectors[[drawn.integers(len(vectors))]]
    while len(centres) < count:
        squares = ((vectors[:, None] - centres[None]) ** 2).sum(-1).min(1)
        if not squares.sum() > 0:
            break
        centres = np.concatenate([centres, vectors[[drawn.choice(len(vectors), p=squares / squares.sum())]]])
    while True:
        nearest = ((vectors[:, None] - centres[None]) ** 2).sum(-1).argmin(1)
        moved = np.array([vectors[nearest == each].mean(0) for each in np.unique(nearest)])
        if moved.shape == centres.shape and np.allclose(moved, centres):
            return nearest
        centres = moved


def medoids(weight: Float[np.ndarray, " n"], apart: Float[np.ndarray, "n n"], start: list[int]) -> list[int]:
    """Places whose weighted distance from all is least, one exchanged at a time from `start` on."""

    def cost(chosen: list[int]) -> float:
        return float(weight @ apart[:, chosen].min(1))

    best, found = cost(start), start
    while True:
        exchanged = [
            [*found[:place], other, *found[place + 1 :]]
            for place in range(len(found))
            for other in range(len(weight))
            if other not in found
        ]
        nearest = min(exchanged, key=cost, default=found)
        if not cost(nearest) < best - 1e-12:
            return found
        best, found = cost(nearest), nearest


def size_problems(responses: int) -> Iterable[str]:
    """What is wrong with a size of groups."""
    if responses < 2:
        yield f"responses must be at least 2, got {responses}"


EXAMPLES = (BestCoreset(responses=3, by="win"), BestMedoids(responses=3, by="win"))
"""By win rates they are defined whatever the oracle."""
