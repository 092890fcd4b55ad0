"""Pairings that pick: which answers they take, and that losses of lists are trained on their groups."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from made_examples import examples, named
from made_rollouts import preferences, rollouts

import jaxalign.pairings
from jaxalign.config.load import load
from jaxalign.contracts.group_size import LONE
from jaxalign.contracts.pairing import CheckedPairing, OfBoth, group_size, pairing_at
from jaxalign.errors import ConfigError, DataError
from jaxalign.feedback.sampled import pairs_of_a_prompt
from jaxalign.losses.dpo import DPO
from jaxalign.losses.pro import PRO
from jaxalign.pairings.below_mean import BelowMean
from jaxalign.pairings.best_random import BestRandom
from jaxalign.pairings.bottom import BestBottom
from jaxalign.pairings.close_ratings import CloseRatings
from jaxalign.pairings.curriculum import Curriculum
from jaxalign.pairings.even_pairs import EvenPairs
from jaxalign.pairings.every_answer import EveryAnswer
from jaxalign.pairings.large_margin import LargeMargin
from jaxalign.pairings.rejection import Rejection, accepted
from jaxalign.pairings.spread import Spread
from jaxalign.pairs import AllPairs, BestWorst, OfPolicy, RankLabel, SoftLabel, pairing_metrics, win_rates
from jaxalign.training.rows import Sizes
from jaxalign.training.views import view_of
from jaxalign.types import Pairing, Preferences


def ordered(samples: int) -> np.ndarray:
    """P of answers that are the better the higher their number."""
    better = np.tril(np.full((samples, samples), 0.8), -1) + np.triu(np.full((samples, samples), 0.2), 1)
    return (better + 0.5 * np.eye(samples)).astype(np.float32)[None]


def test_best_worst_and_those_between():
    groups = CheckedPairing(Spread(4))(rollouts([list("abcdefg")]), preferences(ordered(7)), jax.random.key(0))
    assert groups.responses.tolist() == [[6, 0, 4, 2]]
    assert groups.labels.prefer.tolist() == [np.float32(0.8)]
    assert groups.labels.win.shape == (1, 4)
    assert groups.labels.win[0, 0] > groups.labels.win[0, 2] > groups.labels.win[0, 3] > groups.labels.win[0, 1]


def test_two_of_them_are_the_best_and_the_worst():
    given, oracle, key = rollouts([list("abca")]), preferences(ordered(4)), jax.random.key(0)
    np.testing.assert_array_equal(Spread(2)(given, oracle, key).responses, BestWorst()(given, oracle, key).responses)


def test_the_best_meets_all_others_in_turn():
    given, oracle = rollouts([list("abca")]), preferences(ordered(4))
    found = [BestRandom()(given, oracle, jax.random.key(seed)).responses[0].tolist() for seed in range(40)]
    assert {tuple(pair) for pair in found} == {(2, 0), (2, 1)}
    assert len(BestRandom()(rollouts([list("aaaa")]), oracle, jax.random.key(0)).prompt) == 0


def test_prompts_with_too_few_texts_give_no_group():
    groups = Spread(3)(rollouts([list("abab")]), preferences(ordered(4)), jax.random.key(0))
    assert groups.responses.shape == (0, 3)
    assert list(Spread(1).problems())


def test_rows_are_planned_for_all_of_them():
    experiment = load(Path(__file__).parents[1] / "configs" / "tiny_lm.py")
    model = experiment.model.open()
    pairs = experiment.feedback.sizes(model)
    lists = dataclasses.replace(experiment.feedback, pairing=Spread(4)).sizes(model)
    assert (group_size(BestWorst()), group_size(Spread(4))) == (2, 4)
    assert lists == Sizes(pairs.prompt, pairs.response, 4, pairs.answers)
    assert lists.rows.scored > pairs.rows.scored
    view_of(model, PRO(), 4)
    with pytest.raises(ConfigError, match="reads pairs, and the feedback gives groups of 4 answers"):
        view_of(model, DPO(), 4)


# ----------------------------------------------------------------------------------------------------------------------
# Picked by ratings


def scored(scores) -> Preferences:
    """An oracle that rates, and prefers the better rated answer as surely as Bradley and Terry."""
    scores = np.asarray(scores, np.float32)
    prefer = 1 / (1 + np.exp(scores[:, None, :] - scores[:, :, None]))
    return dataclasses.replace(preferences(prefer), scores=scores[:, None])


@pytest.mark.parametrize("pairing", examples(jaxalign.pairings, Pairing, least=5).values(), ids=named)
def test_groups_are_of_different_texts_and_come_again(pairing):
    texts = [list("abcab"), list("aaaaa"), list("edcba")]
    if isinstance(pairing, OfBoth):
        pytest.skip("the anchor's answer is there twice: tests/test_beside_anchor.py")
    given, oracle = rollouts(texts), scored(np.random.default_rng(0).normal(0, 1, (3, 5)))
    found, again = (CheckedPairing(pairing)(given, oracle, jax.random.key(3)) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, found, again)
    assert found.responses.shape[1] == group_size(pairing)
    alone = group_size(pairing) == LONE  # the only answer of a prompt is one all the same
    assert set(found.prompt.tolist()) == ({0, 1, 2} if alone else {0, 2})
    for prompt, group in zip(found.prompt, found.responses, strict=True):
        assert len({texts[prompt][index] for index in group}) == len(group)
    assert not isinstance(pairing, OfPolicy), "says of itself that certificates hold"
    assert not list(getattr(pairing, "problems", list)())


def test_the_rejected_answer_lies_two_deviations_below_the_mean():
    scores = [3.0, 1.0, 0.5, 0.5, 1.0, -1.0, -2.0, -3.0]
    given, oracle = rollouts([list("abcdefgh")]), scored([scores])
    values = np.array(scores)
    aim = values.mean() - 2 * values.std()
    nearest = int(np.abs(values - aim).argmin())
    assert BelowMean()(given, oracle, jax.random.key(0)).responses.tolist() == [[0, nearest]]
    assert BelowMean(sigmas=0.0)(given, oracle, jax.random.key(0)).responses.tolist() == [[0, 2]]
    assert BelowMean(sigmas=1e3)(given, oracle, jax.random.key(0)).responses.tolist() == [[0, 7]]
    with pytest.raises(DataError, match=r"take feedback\.pairing\.by 'win'"):
        BelowMean()(given, preferences(oracle.prefer), jax.random.key(0))


def test_the_best_stands_before_the_worst_ones():
    given, oracle = rollouts([list("abcdef"), list("aabbcc")]), scored([[1.0, 5.0, 2.0, 0.0, 4.0, 3.0]] * 2)
    found = BestBottom(4)(given, oracle, jax.random.key(0))
    assert found.responses.tolist() == [[1, 3, 0, 2]]
    assert found.labels.score.tolist() == [[5.0, 0.0, 1.0, 2.0]]
    assert "at least 2" in "".join(BestBottom(1).problems())


def test_close_ratings_are_the_least_apart_that_are_apart():
    given, oracle = (
        rollouts([list("abcdef"), list("aabbaa")]),
        scored([[1.0, 5.0, 2.0, 1.0, 4.5, 3.0], [0, 0, 1, 1, 0, 0]]),
    )
    found = CloseRatings(pairs=3, label=RankLabel())(given, oracle, jax.random.key(0))
    assert found.prompt.tolist() == [0, 0, 0, 1]
    assert found.responses.tolist() == [[1, 4], [2, 0], [2, 3], [2, 0]]
    assert "at least 1" in "".join(CloseRatings(pairs=0).problems())


def test_accepted_answers_are_the_best_or_any_by_the_temperature():
    ratings, drawn = np.array([0.0, 3.0, 1.0, 2.0]), np.random.default_rng(0).uniform(size=(4, 4))
    assert accepted(ratings, 1e-3, 3, drawn) == [1, 3, 2]
    assert accepted(ratings, 1e9, 3, drawn) == [0, 1, 2]
    # e^-1 = 0.37 and e^-2 = 0.14: the first pass takes 1 and 3, the second what is left by e^-1
    drawn = np.array([[0.1, 0.9, 0.2, 0.3], [0.4, 0.5, 0.9, 0.5], [0.9, 0.9, 0.9, 0.9]])
    assert accepted(ratings, 1.0, 3, drawn) == [1, 3, 2]
    assert accepted(ratings, 1.0, 4, drawn) == [1, 3, 2, 0]


def test_the_first_accepted_answers_are_drawn_from_the_tilted_policy():
    """One of 4 sampled answers each of different rating: a pass accepts each with its own probability. 20000 passes
    leave a deviation of 0.5 / sqrt(20000) = 0.0035."""
    ratings, beta = np.array([0.0, 0.5, 1.0, 0.2]), 0.7
    drawn = np.random.default_rng(1).uniform(size=(20000, 1, 4))
    taken = np.zeros(4)
    for row in drawn:
        taken[accepted(ratings, beta, 4, row)] += 1
    np.testing.assert_allclose(taken / 20000, np.exp((ratings - 1.0) / beta), atol=0.015)


def test_pairs_become_harder_from_iteration_to_iteration():
    given, oracle = rollouts([list("abcdefg"), list("aabbaab")]), preferences(np.concatenate([ordered(7)] * 2))
    found = [
        pairing_at(Curriculum(stages=3), iteration)(given, oracle, jax.random.key(0)).responses.tolist()
        for iteration in range(5)
    ]
    assert [pairs[0] for pairs in found] == [[6, 0], [6, 2], [6, 5], [6, 5], [6, 5]]
    assert [pairs[1] for pairs in found] == [found[0][1]] * 5  # two texts have one pair
    assert pairing_at(BestWorst(), 3) == BestWorst()
    assert {"stages", "first"} == {line.split()[0] for line in Curriculum(stages=1, first=4).problems()}


def test_rejection_makes_pairs_of_neighbours():
    given, oracle = rollouts([list("abcdef"), list("abcabc")]), scored([[0, 1, 2, 3, 4, 5.0]] * 2)
    found = Rejection(beta=1e-3, pairs=2, label=SoftLabel())(given, oracle, jax.random.key(0))
    assert found.prompt.tolist() == [0, 0, 1]
    assert found.responses.tolist() == [[5, 4], [3, 2], [2, 1]]
    assert pairs_of_a_prompt(Rejection(pairs=2), 8) == 2
    assert "ranks nothing" in "".join(Rejection(label=RankLabel()).problems())
    assert {"beta", "pairs"} == {line.split()[0] for line in Rejection(beta=0.0, pairs=0).problems()}


# ----------------------------------------------------------------------------------------------------------------------
# Of the policy's answers as often as it gives them, or evenly


def cyclic() -> Preferences:
    """Six answers, of three texts that beat one another in a cycle; the two annotators do not agree."""
    table = np.array([[0.5, 0.1, 0.8], [0.9, 0.5, 0.1], [0.2, 0.9, 0.5]], np.float32)
    kinds = [0, 1, 0, 2, 0, 1]
    prefer = table[np.ix_(kinds, kinds)][None]
    both = np.stack([prefer[0], np.full((6, 6), 0.5, np.float32)])[None]
    return Preferences(("one", "two"), (1.0, 0.0), prefer, both, scores=None)


SAID = rollouts([list("abacab")])
"""Texts a, b, c in the shares 3, 2, 1 of 6."""
SHARES = np.array([3, 2, 1]) / 6
KEY = jax.random.key(0)


def test_even_pairs_are_each_two_texts_once():
    found = EvenPairs()(SAID, cyclic(), KEY)
    assert found.responses.tolist() == [[1, 0], [0, 3], [3, 1]]  # oriented by the label
    np.testing.assert_allclose(found.weight, 1 / 3)
    np.testing.assert_allclose(found.labels.prefer, [0.9, 0.8, 0.9])
    two = EvenPairs()(rollouts([list("abacab"), list("aabbaa")]), preferences(np.concatenate([ordered(6)] * 2)), KEY)
    np.testing.assert_allclose(np.bincount(two.prompt, two.weight), 1)
    assert "ranks nothing" in "".join(EvenPairs(RankLabel()).problems())


def test_large_margins_are_pairs_that_win_rates_tell_apart():
    """Win rates are .417, .633, .483 against the shares above: only b is more than .1 ahead, of both."""
    win = win_rates(SAID, cyclic())[0]
    np.testing.assert_allclose(
        win[[0, 1, 3]], [0.25 + 0.1 / 3 + 0.8 / 6, 0.45 + 1 / 6 + 0.1 / 6, 0.1 + 0.3 + 0.5 / 6], atol=1e-6
    )
    found = LargeMargin(margin=0.1)(SAID, cyclic(), KEY)
    assert found.responses.tolist() == [[1, 0], [1, 3]]
    np.testing.assert_allclose(found.weight, [2 * SHARES[1] * SHARES[0], 2 * SHARES[1] * SHARES[2]])
    np.testing.assert_array_equal(found.labels.prefer, 1)
    assert not len(LargeMargin(margin=0.3)(SAID, cyclic(), KEY).prompt)
    assert list(LargeMargin(margin=0.0).problems())


def test_without_a_margin_to_speak_of_large_ones_weigh_as_all_pairs():
    found, every = LargeMargin(margin=1e-6)(SAID, cyclic(), KEY), AllPairs()(SAID, cyclic(), KEY)
    texts = lambda groups: [frozenset(SAID.texts[0][index] for index in pair) for pair in groups.responses]  # noqa: E731
    weigh = lambda groups: {  # noqa: E731
        pair: sum(w for w, each in zip(groups.weight, texts(groups), strict=True) if each == pair)
        for pair in texts(groups)
    }
    assert weigh(found) == pytest.approx(weigh(every))


def test_every_answer_is_a_group_by_its_share():
    found = CheckedPairing(EveryAnswer())(SAID, cyclic(), KEY)
    assert found.responses.tolist() == [[0], [1], [3]]
    np.testing.assert_allclose(found.weight, SHARES, rtol=1e-6)
    win = win_rates(SAID, cyclic())[0, [0, 1, 3]]
    np.testing.assert_allclose(found.labels.win[:, 0], win)
    np.testing.assert_allclose(found.labels.prefer, win)
    np.testing.assert_allclose(found.labels.votes, np.stack([win, np.full(3, 0.5)], 1), atol=1e-6)
    # an expectation under the policy: it wins half of the time against itself
    assert found.labels.win[:, 0] @ found.weight == pytest.approx(0.5)
    metrics = pairing_metrics(SAID, cyclic(), found)
    assert metrics.keys() == {"pairs/groups", "pairs/dropped_prompts", "pairs/mean_prefer", "pairs/duplicates"}
    assert metrics["pairs/duplicates"] == 0.5
    assert pairs_of_a_prompt(EveryAnswer(), 5) == 5
    rated = EveryAnswer()(rollouts([list("abc")]), scored([[3.0, 1.0, 2.0]]), KEY)
    assert rated.labels.score.tolist() == [[3.0], [1.0], [2.0]]
