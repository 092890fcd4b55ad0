"""Rejected answers of every kind: clusters and medoids against search by hand, and what prompts have groups."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from made_rollouts import preferences, rollouts

from jaxalign.errors import BrokenContract
from jaxalign.pairings.covering import BestCoreset, BestMedoids, Trigrams, k_means, medoids
from jaxalign.types import Preferences

KINDS = [
    "yes yes yes",
    "the answer is 4",
    "no no no no",
    "no no no",
    "I do not know",
    "I do not know it",
    "the answer is 5",
]
SCORES = np.array([3.0, 2.0, -1.0, -1.5, 0.5, 0.4, 1.0], np.float32)


def scored(scores: np.ndarray) -> Preferences:
    prefer = 1 / (1 + np.exp(scores[:, None, :] - scores[:, :, None]))
    return dataclasses.replace(preferences(prefer.astype(np.float32)), scores=scores[:, None])


def test_texts_that_are_alike_are_near():
    vectors = Trigrams()(tuple(KINDS))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1)
    apart = np.linalg.norm(vectors[:, None] - vectors[None], axis=-1) + 9 * np.eye(7)
    assert apart.argmin(1)[1:].tolist() == [6, 3, 2, 5, 4, 1]
    assert np.isfinite(Trigrams(8)(("", "a"))).all()
    assert "at least 2" in "".join(Trigrams(1).problems())


@pytest.mark.parametrize("vectors", [np.full((6, 2), np.nan), np.zeros((5, 2)), np.zeros(6)])
def test_an_embedding_of_something_else_is_refused(vectors):
    with pytest.raises(BrokenContract, match="must return a finite vector a text"):
        BestCoreset(3, embedding=lambda texts: vectors)(rollouts([KINDS]), scored(SCORES[None]), jax.random.key(0))


@dataclasses.dataclass(frozen=True)
class Kinds:
    """Texts of three kinds at three places, those of one kind a little apart."""

    def __call__(self, texts: tuple[str, ...]) -> np.ndarray:
        kinds = [next(place for place, kind in enumerate(("no no", "know", "")) if kind in text) for text in texts]
        return 10 * np.eye(3)[kinds] + 0.01 * np.arange(len(texts))[:, None]


def test_the_worst_of_each_cluster_stands_for_it():
    """Three kinds of worse answers: no, not known, a number; whichever centres are drawn."""
    given, oracle = rollouts([KINDS]), scored(SCORES[None])
    for seed in range(5):
        found = BestCoreset(4, Kinds())(given, oracle, jax.random.key(seed))
        assert found.responses.tolist() == [[0, 3, 5, 6]]


def test_medoids_stand_for_bad_answers_and_not_for_one_kind():
    given, oracle = rollouts([KINDS]), scored(SCORES[None])
    found = BestMedoids(4)(given, oracle, jax.random.key(0)).responses[0].tolist()
    assert found[0] == 0
    assert {next(kind for kind in ("no no", "know", "answer") if kind in KINDS[each]) for each in found[1:]} == {
        *("no no", "know", "answer")
    }


def test_exchanges_come_to_the_least_sum():
    """Of every three of eight, by trying all; in the plane, where a minimum by exchanges is hardly another."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        points, weight = rng.normal(size=(8, 2)), np.exp(rng.normal(size=8))
        apart = np.linalg.norm(points[:, None] - points[None], axis=-1)
        cost = lambda chosen: weight @ apart[:, list(chosen)].min(1)  # noqa: E731, B023
        least = min(map(cost, itertools.combinations(range(8), 3)))
        assert cost(medoids(weight, apart, [0, 1, 2])) <= 1.05 * least
        assert cost([0, 1, 2]) > least


def test_clusters_of_points_that_are_all_one_are_one():
    assert k_means(np.ones((4, 2)), 3, np.random.default_rng(0)).tolist() == [0, 0, 0, 0]
    far = np.array([[0.0], [0.1], [5.0], [5.1], [9.0]])
    clusters = k_means(far, 3, np.random.default_rng(1))
    assert clusters[0] == clusters[1]
    assert len(np.unique(clusters)) == 3


@dataclasses.dataclass(frozen=True)
class Alike:
    """Every text at the same place."""

    def __call__(self, texts: tuple[str, ...]) -> np.ndarray:
        return np.ones((len(texts), 2))


@pytest.mark.parametrize("pairing", [BestCoreset(3, Alike()), BestMedoids(3, Alike())])
def test_where_answers_are_all_alike_they_are_the_worst_ones(pairing):
    texts = [list("abcd"), list("aabb")]
    found = pairing(rollouts(texts), scored(np.array([[1.0, 4, 2, 3]] * 2, np.float32)), jax.random.key(0))
    assert found.responses.tolist() == [[1, 0, 2]]
    assert found.prompt.tolist() == [0]  # two texts are too few
    assert "at least 2" in "".join(dataclasses.replace(pairing, responses=1).problems())
