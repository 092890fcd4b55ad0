"""Mixtures of oracles: the weighted mean of what members say, kept apart by member, and when it can cycle."""

import dataclasses

import jax
import numpy as np
import pytest
from made_judges import SITE
from made_rollouts import preferences, random_prefer, rollouts

from jaxalign.contracts.scope import opened
from jaxalign.errors import BrokenContract
from jaxalign.evals.cycles import cycle_metrics
from jaxalign.oracles.mixture import Member, Mixture
from jaxalign.oracles.panel import Panel, Weighted
from jaxalign.oracles.tabular import TabularGame
from jaxalign.types import Preferences, Prompt, Rollouts

KEY = jax.random.key(0)


@dataclasses.dataclass(frozen=True)
class Said:
    """An oracle that says what it was given."""

    number: int
    given: Preferences = dataclasses.field(compare=False)

    def __call__(self, rollouts: Rollouts, key: jax.Array) -> Preferences:
        return self.given


def mixed(*given: Preferences, weights=None, count: int = 3) -> Preferences:
    weights = weights or [1.0] * len(given)
    members = (
        Member(Said(n, each), weight, f"m{n}") for n, (each, weight) in enumerate(zip(given, weights, strict=True))
    )
    texts = [[str(index) for index in range(given[0].prefer.shape[1])] for _ in given[0].prefer]
    return Mixture(tuple(members))(rollouts(texts), KEY)


def drawn(seed: int, count: int = 4, samples: int = 3) -> Preferences:
    return preferences(random_prefer(np.random.default_rng(seed), count, samples, ties=0.1))


def test_a_mixture_is_the_weighted_mean_of_its_members_and_keeps_them_apart():
    one, other = drawn(0), drawn(1)
    found = mixed(one, other, weights=[3.0, 1.0])
    np.testing.assert_allclose(found.prefer, 0.75 * one.prefer + 0.25 * other.prefer, atol=1e-7)
    np.testing.assert_array_equal(found.prefer + found.prefer.swapaxes(1, 2), 1.0)
    np.testing.assert_array_equal(found.by_annotator, np.stack([one.prefer, other.prefer], 1))
    assert (found.annotators, found.weights, found.scores) == (("m0", "m1"), (0.75, 0.25), None)


def test_a_member_alone_is_itself():
    np.testing.assert_array_equal(mixed(drawn(0)).prefer, drawn(0).prefer)


def test_notes_are_kept_by_member_and_scores_if_all_score():
    one = dataclasses.replace(
        drawn(0), scores=np.arange(12, dtype=np.float32).reshape(4, 1, 3), notes={"cut": np.ones(4, np.float32)}
    )
    two = dataclasses.replace(
        one,
        annotators=("x", "y"),
        weights=(0.25, 0.75),
        by_annotator=np.stack([one.prefer, one.prefer], 1),
        scores=np.concatenate([one.scores, 2 * one.scores], 1),
        notes={"cut": np.zeros(4, np.float32), "lost": np.ones(4, np.float32)},
    )
    found = mixed(one, two)
    assert {name: values.tolist() for name, values in found.notes.items()} == {
        "m0/cut": [1.0] * 4,
        "m1/cut": [0.0] * 4,
        "m1/lost": [1.0] * 4,
    }
    np.testing.assert_array_equal(found.scores[:, 1], 1.75 * one.scores[:, 0])
    assert mixed(one, drawn(1)).scores is None


@dataclasses.dataclass(frozen=True)
class Table:
    """Annotator that looks its scores up by prompt."""

    scores: np.ndarray = dataclasses.field(compare=False)
    name: str = "table"

    def __call__(self, prompt: Prompt, texts: tuple[str, ...]) -> np.ndarray:
        return self.scores[int(prompt.id[1:])]


def cyclic(first: float, second: float, panels: int = 1000) -> int:
    """Of random pairs of Bradley–Terry members over six answers, those whose mixture's majority cycles."""
    rng = np.random.default_rng(0)
    members = [
        Member(Panel((Weighted(Table(rng.normal(0, 2, (panels, 6)))),)), weight, name)
        for weight, name in ((first, "one"), (second, "other"))
    ]
    asked = rollouts([list("abcdef")] * panels)
    found = Mixture(tuple(members))(asked, KEY)
    return sum(cycle_metrics(table[None])["cycles/cyclic_triples"] > 0 for table in found.prefer)


def test_two_bradley_terry_members_cycle_unless_their_weights_are_equal():
    assert cyclic(0.5, 0.5) == 0
    assert cyclic(0.6, 0.4) > 10


def test_a_member_that_breaks_its_contract_is_refused_by_its_name():
    nan = dataclasses.replace(drawn(0), prefer=np.full((4, 3, 3), np.nan, np.float32))
    with pytest.raises(BrokenContract, match=r"oracle m1: prefer\[0, 0, 0\] is nan"):
        mixed(drawn(0), nan)


def test_members_are_opened_and_named_as_before():
    mixture = Mixture((Member(TabularGame()), Member(Panel((Weighted(Table(np.zeros((1, 2)))),)), 2.0)))
    with opened(mixture, SITE) as judge:
        assert judge.names == mixture.names == ("TabularGame", "Panel")


def test_options_of_the_mixture_are_checked():
    assert list(Mixture(()).problems()) == ["members must name at least one oracle"]
    (twice,) = Mixture((Member(TabularGame()), Member(TabularGame()))).problems()
    assert "'TabularGame' 2 times: set `name`" in twice
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        assert "weight must be positive" in next(iter(Member(TabularGame(), weight).problems()))
