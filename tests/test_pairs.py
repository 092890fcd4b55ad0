"""Pairings and labels: the properties each one obeys, discovered, then the theorem's expectation and cases by hand."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_examples import examples, named
from made_rollouts import permuted, preferences, random_prefer, rollouts

from jaxalign import pairs
from jaxalign.oracles.tabular import THREE_ACTION, TabularGame
from jaxalign.pairs import (
    AllPairs,
    BernoulliLabel,
    BestSecond,
    BestWorst,
    Label,
    MajorityLabel,
    RandomPair,
    RankLabel,
    SoftLabel,
    pairing_metrics,
    ranking,
)
from jaxalign.types import Groups, Pairing, Preferences

RULES = examples(pairs, Pairing, least=4)
LABELS = examples(pairs, Label, least=4)


@pytest.fixture(params=RULES.values(), ids=named)
def rule(request):
    return request.param


@pytest.fixture(params=LABELS.values(), ids=named)
def label(request):
    return request.param


def labelled_rules() -> list:
    with_labels = [dataclasses.replace(rule, label=label) for rule in RULES.values() for label in LABELS.values()]
    return [rule for rule in with_labels if not list(getattr(rule, "problems", list)())]


# ----------------------------------------------------------------------------------------------------------------------
# Every rule, every label


def case(seed: int):
    """Rollouts with duplicates and uneven weights, and preferences with ties that hold identical texts equal."""
    rng = np.random.default_rng(seed)
    count, samples = rng.integers(1, 5), rng.integers(2, 6)
    texts = rng.choice(list("abcd"), (count, samples)).tolist()
    weights = rng.dirichlet(np.ones(samples), count).astype(np.float32)
    prefer = random_prefer(rng, count, samples, ties=0.2)
    same = np.array([[[left == right for right in row] for left in row] for row in texts])
    return rollouts(texts, weights=weights), preferences(np.where(same, np.float32(0.5), prefer))


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_groups_are_pairs_of_different_texts_of_one_prompt(seed):
    given_rollouts, oracle = case(seed)
    for rule in labelled_rules():
        groups = rule(given_rollouts, oracle, jax.random.key(seed))
        count = len(groups.prompt)
        assert groups.responses.shape == (count, 2)
        assert groups.labels.win.shape == (count, 2)
        assert groups.labels.prefer.shape == groups.weight.shape == (count,)
        assert groups.prompt.dtype == groups.responses.dtype == np.int32
        assert {groups.labels.prefer.dtype, groups.weight.dtype, groups.labels.win.dtype} == {np.dtype(np.float32)}
        assert ((groups.labels.prefer >= 0.5) & (groups.labels.prefer <= 1)).all()
        assert (groups.weight > 0).all()
        for prompt, (chosen, rejected) in zip(groups.prompt, groups.responses, strict=True):
            assert given_rollouts.texts[prompt][chosen] != given_rollouts.texts[prompt][rejected]
        with_two = {index for index, texts in enumerate(given_rollouts.texts) if len(set(texts)) > 1}
        assert set(groups.prompt.tolist()) == with_two  # weights are positive, so every such prompt gives a group


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_win_is_the_mean_probability_to_beat_the_sampling_policy(seed):
    given_rollouts, oracle = case(seed)
    for rule in RULES.values():
        groups = rule(given_rollouts, oracle, jax.random.key(seed))
        for prompt, responses, win in zip(groups.prompt, groups.responses, groups.labels.win, strict=True):
            expected = oracle.prefer[prompt][responses] @ given_rollouts.weights[prompt]
            np.testing.assert_allclose(win, expected, atol=1e-6)  # fp32 sums


def test_same_key_same_groups_and_equal_rules_are_equal_values(rule, key):
    rng = np.random.default_rng(0)
    given_rollouts, oracle = rollouts([list("abcd")] * 5), preferences(random_prefer(rng, 5, 4))
    first, second = (rule(given_rollouts, oracle, key) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert rule == dataclasses.replace(rule)
    assert hash(rule) == hash(dataclasses.replace(rule))
    assert list(getattr(rule, "problems", list)()) == []


def told(groups: Groups, texts) -> set:
    """What the groups say, without indices: prompt, chosen text, rejected text, label, weight, win rates."""
    names = [
        tuple(texts[prompt][index] for index in pair)
        for prompt, pair in zip(groups.prompt, groups.responses, strict=True)
    ]
    numbers = np.column_stack([groups.labels.prefer, groups.weight, groups.labels.win]).round(5).tolist()
    return {(prompt, *name, *row) for prompt, name, row in zip(groups.prompt.tolist(), names, numbers, strict=True)}


@pytest.mark.parametrize("rule", [AllPairs(), BestWorst(), BestSecond()], ids=lambda rule: type(rule).__name__)
def test_order_of_responses_does_not_matter_to_rules_without_chance(rule, key):
    rng = np.random.default_rng(1)
    order = [3, 1, 4, 0, 2]
    weights = rng.dirichlet(np.ones(5), 6).astype(np.float32)
    given_rollouts, prefer = rollouts([list("abcde")] * 6, weights=weights), random_prefer(rng, 6, 5)
    turned = permuted(given_rollouts, order)
    straight = rule(given_rollouts, preferences(prefer), key)
    again = rule(turned, preferences(prefer[:, order][:, :, order]), key)
    assert told(straight, given_rollouts.texts) == told(again, turned.texts)


def test_no_prompt_with_two_different_texts_leaves_no_groups(rule, key):
    given_rollouts = rollouts([["a", "a"], ["b", "b"]])
    oracle = preferences(np.full((2, 2, 2), 0.5))
    groups = rule(given_rollouts, oracle, key)
    assert groups.responses.shape == (0, 2)
    metrics = pairing_metrics(given_rollouts, oracle, groups)
    assert metrics["pairs/dropped_prompts"] == 2.0
    assert all(np.isfinite(value) for value in metrics.values())


# ----------------------------------------------------------------------------------------------------------------------
# Labels


def test_labels_by_hand(key):
    prefer = np.float32([0.8, 0.3, 0.5])
    expected = {
        SoftLabel: ([True, False, True], [0.8, 0.7, 0.5]),
        MajorityLabel: ([True, False, True], [1.0, 1.0, 0.5]),
        RankLabel: ([True, True, True], [1.0, 1.0, 1.0]),
    }
    for cls, (chosen, certainty) in expected.items():
        first, label = cls()(prefer, key)
        np.testing.assert_array_equal(first, chosen)
        np.testing.assert_allclose(label, certainty, rtol=1e-6)


def test_bernoulli_winners_come_with_the_oracles_probability(key):
    prefer = np.repeat(np.float32([0.0, 0.1, 0.5, 0.9, 1.0]), 20_000)
    first, label = BernoulliLabel()(prefer, key)
    share = first.reshape(5, -1).mean(-1)
    np.testing.assert_allclose(share, [0, 0.1, 0.5, 0.9, 1], atol=0.015)  # four standard errors
    assert share[0] == 0.0
    assert share[-1] == 1.0
    assert (label == 1).all()


def test_several_votes_are_one_label_of_their_share(key):
    prefer = np.repeat(np.float32([0.0, 0.3, 0.8, 1.0]), 5000)
    first, label = BernoulliLabel(votes=4)(prefer, key)
    assert set(np.unique(label)) == {0.5, 0.75, 1.0}
    of_first = np.where(first, label, 1 - label).reshape(4, -1)
    np.testing.assert_allclose(
        of_first.mean(-1), [0, 0.3, 0.8, 1], atol=0.014
    )  # four standard errors of 5,000 · 4 votes
    assert of_first.var(-1)[1] == pytest.approx(0.3 * 0.7 / 4, rel=0.1)
    np.testing.assert_array_equal(BernoulliLabel(votes=1)(prefer, key)[0], BernoulliLabel()(prefer, key)[0])
    assert list(BernoulliLabel(votes=0).problems()) == ["votes must be at least 1, got 0"]


def test_rules_that_do_not_rank_refuse_the_rank_label():
    for rule in (RandomPair(label=RankLabel()), AllPairs(label=RankLabel())):
        (sentence,) = rule.problems()
        assert "ranks nothing" in sentence


# ----------------------------------------------------------------------------------------------------------------------
# The law of the pairs


POLICY = np.float64([0.2, 0.5, 0.3])


def enumerated(copies: int = 1):
    """The three-action game played by POLICY, every answer listed once a prompt."""
    weights = np.tile(POLICY.astype(np.float32), (copies, 1))
    return rollouts([list("abc")] * copies, weights=weights)


def squared_losses(prefer, margin, target):
    """INPO's and IPO's loss with its label in expectation."""
    return prefer * (margin - target) ** 2 + (1 - prefer) * (margin + target) ** 2


def test_all_pairs_of_an_enumerated_policy_are_its_expectation(key):
    """Σ over groups = E under π⊗π less the diagonal, which has no margin. For any margins, so for the gradient too."""
    given_rollouts, target = enumerated(), 0.7
    h = np.random.default_rng(0).normal(size=3)
    groups = AllPairs()(given_rollouts, TabularGame()(given_rollouts, key), key)
    chosen, rejected = groups.responses.T
    summed = (groups.weight * squared_losses(groups.labels.prefer, h[chosen] - h[rejected], target)).sum()
    everything = squared_losses(np.array(THREE_ACTION), h[:, None] - h[None, :], target)
    expected = POLICY @ everything @ POLICY - (POLICY**2).sum() * target**2
    np.testing.assert_allclose(summed, expected, rtol=1e-6)  # fp32 weights


def test_the_regression_on_all_pairs_is_one_mirror_step(key):
    """Least squares over the groups gives h(y) = 2 target (P(y ≻ π) − 1/2) up to a constant: π ∝ last exp(eta P)."""
    given_rollouts, target = enumerated(), 0.15
    groups = AllPairs()(given_rollouts, TabularGame()(given_rollouts, key), key)
    chosen, rejected = np.eye(3)[groups.responses].swapaxes(0, 1)
    root = np.sqrt(groups.weight)[:, None]
    goal = target * (2 * groups.labels.prefer - 1)
    h = np.linalg.lstsq(root * (chosen - rejected), root[:, 0] * goal, rcond=None)[0]
    step = 2 * target * (np.array(THREE_ACTION) @ POLICY)
    np.testing.assert_allclose(h - POLICY @ h, step - POLICY @ step, atol=1e-6)  # fp32 labels and weights


def test_random_pairs_have_the_law_of_independent_draws(key):
    """Σ weight · 1[pair] over many draws estimates 2 π_i π_j, and the label the oracle's probability."""
    given_rollouts, draws = enumerated(), 200_000
    oracle = TabularGame()(given_rollouts, key)
    groups = RandomPair(pairs_per_prompt=draws)(given_rollouts, oracle, key)
    wins = np.zeros((3, 3))
    np.add.at(wins, tuple(groups.responses.T), groups.weight.astype(np.float64))
    expected = 2 * POLICY[:, None] * POLICY[None, :] * np.array(THREE_ACTION)
    off = ~np.eye(3, dtype=bool)
    np.testing.assert_allclose(wins[off], expected[off], atol=4 * 0.5 / np.sqrt(draws))  # four standard errors at most


def test_random_pairs_of_samples_are_any_two_alike(key):
    groups = RandomPair(label=MajorityLabel())(
        rollouts([list("abcd")] * 20_000), preferences(np.tile(np.float32(0.5), (20_000, 4, 4))), key
    )
    seen = np.zeros((4, 4))
    np.add.at(seen, tuple(groups.responses.T), 1 / 20_000)
    np.testing.assert_allclose(seen[~np.eye(4, dtype=bool)], 1 / 12, atol=0.008)  # four standard errors
    np.testing.assert_allclose(groups.weight, 0.75)


def test_weights_of_samples_are_equal_and_of_duplicates_less(key):
    given_rollouts = rollouts([list("abc"), list("aab")])
    oracle = preferences(np.full((2, 3, 3), 0.5))
    for rule in (AllPairs(), RandomPair(pairs_per_prompt=4)):
        groups = rule(given_rollouts, oracle, key)
        totals = [groups.weight[groups.prompt == prompt].sum() for prompt in (0, 1)]
        np.testing.assert_allclose(totals, [6 / 9, 4 / 9], rtol=1e-6)  # P(two draws differ)


def test_pairs_per_prompt_must_be_positive():
    assert list(RandomPair(pairs_per_prompt=0).problems()) == ["pairs_per_prompt must be at least 1, got 0"]


# ----------------------------------------------------------------------------------------------------------------------
# Ranks


CYCLE = np.float32([[0.5, 0.9, 0.45], [0.1, 0.5, 0.6], [0.55, 0.4, 0.5]])  # a ≻ b ≻ c ≻ a; mean wins 1.35, .7, .95


def test_best_second_trusts_the_rank_not_the_pair(key):
    given_rollouts = rollouts([list("abc")])
    by_rank = BestSecond()(given_rollouts, preferences(CYCLE[None]), key)
    assert by_rank.responses.tolist() == [[0, 2]]
    assert by_rank.labels.prefer.tolist() == [1.0]
    by_oracle = BestSecond(label=SoftLabel())(given_rollouts, preferences(CYCLE[None]), key)
    assert by_oracle.responses.tolist() == [[2, 0]]
    np.testing.assert_allclose(by_oracle.labels.prefer, 0.55, rtol=1e-6)


def test_best_worst_takes_the_ends(key):
    groups = BestWorst()(rollouts([list("abc")]), preferences(CYCLE[None]), key)
    assert groups.responses.tolist() == [[0, 1]]


def test_duplicates_count_once_and_ties_go_by_text():
    even = np.full((4, 4), 0.5, np.float32)
    assert ranking(("d", "b", "b", "a"), even) == [3, 1, 0]
    crowded = CYCLE[np.ix_([0, 1, 1, 1, 2], [0, 1, 1, 1, 2])]
    assert ranking(("a", "b", "b", "b", "c"), crowded) == [0, 4, 1]


# ----------------------------------------------------------------------------------------------------------------------
# What is said of the groups


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_labels_say_what_the_annotators_say_of_the_same_responses(seed):
    given_rollouts, mixed = case(seed)
    other = np.where(mixed.prefer == 0.5, np.float32(0.75), np.float32(0.5)) * (1 - np.eye(mixed.prefer.shape[1]))
    other = (np.triu(other, 1) + np.tril(1 - other, -1) + 0.5 * np.eye(other.shape[1])).astype(np.float32)
    scores = np.random.default_rng(seed).normal(size=(*mixed.prefer.shape[:1], 2, mixed.prefer.shape[1]))
    two = Preferences(
        annotators=("one", "two"),
        weights=(0.25, 0.75),
        prefer=mixed.prefer,
        by_annotator=np.stack([mixed.prefer, other], axis=1),
        scores=scores.astype(np.float32),
    )
    for rule in labelled_rules():
        groups = rule(given_rollouts, two, jax.random.key(seed))
        labels = groups.labels
        alike = rule(given_rollouts, dataclasses.replace(two, scores=None), jax.random.key(seed))
        assert alike.labels.score is None
        np.testing.assert_array_equal(alike.labels.votes, labels.votes)
        assert {leaf.dtype for leaf in jax.tree.leaves(labels)} == {np.dtype(np.float32)}
        for index, (prompt, (chosen, rejected)) in enumerate(zip(groups.prompt, groups.responses, strict=True)):
            votes = two.by_annotator[prompt, :, chosen, rejected]
            np.testing.assert_array_equal(labels.votes[index], votes)
            np.testing.assert_array_equal(labels.decided[index], votes != 0.5)
            mean = 0.25 * two.scores[prompt, 0] + 0.75 * two.scores[prompt, 1]
            np.testing.assert_allclose(labels.score[index], mean[[chosen, rejected]], rtol=1e-6, atol=1e-6)  # fp32


def test_a_group_of_any_size_has_labels():
    """Rules of one's own may make groups of more than two."""
    given_rollouts, oracle = rollouts([list("abc")]), preferences(CYCLE[None])
    labels = pairs.labels_of(given_rollouts, oracle, np.array([0]), np.array([[2, 0, 1]]), np.array([1.0]))
    np.testing.assert_allclose(labels.win, [[1.45 / 3, 1.85 / 3, 1.2 / 3]], rtol=1e-6)
    np.testing.assert_allclose(labels.votes, [[0.55]], rtol=1e-6)


# ----------------------------------------------------------------------------------------------------------------------
# Metrics


def test_pairing_metrics_by_hand(key):
    given_rollouts = rollouts([["a", "b"], ["a", "a"], ["a", "b"]])
    prefer = np.float32([[[0.5, 0.2], [0.8, 0.5]], [[0.5, 0.5], [0.5, 0.5]], [[0.5, 0.5], [0.5, 0.5]]])
    oracle = Preferences(("one", "two"), (1.0, 0.0), prefer, np.stack([prefer, 1 - prefer], axis=1), scores=None)
    groups = AllPairs(label=MajorityLabel())(given_rollouts, oracle, key)
    metrics = pairing_metrics(given_rollouts, oracle, groups)
    expected = {
        "pairs/groups": 2.0,
        "pairs/dropped_prompts": 1.0,
        "pairs/mean_prefer": 0.75,
        "pairs/ties": 0.5,
        "pairs/duplicates": 1 / 6,
        "pairs/agreement": 0.65,
        "pairs/agreement/one": 0.65,
        "pairs/agreement/two": 0.35,
    }
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-6, err_msg=name)
