"""The population of k samples as an oracle: its mean over all draws is the game's, and so are the steps it leads to."""

import dataclasses
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_judges import SITE, judge_directory
from made_rollouts import rollouts

from jaxalign.config.load import validate
from jaxalign.contracts.scope import opened
from jaxalign.errors import ConfigError, DataError
from jaxalign.evals.nash_gap import duality_gap
from jaxalign.games.universal import PopulationGame
from jaxalign.oracles.cyclic_strings import all_strings
from jaxalign.oracles.k_samples import EXAMPLE, KSamples, users_of
from jaxalign.oracles.learned import PreferenceModel, RewardModel
from jaxalign.oracles.panel import Panel, Weighted
from jaxalign.oracles.population import EXAMPLE as RANKING
from jaxalign.oracles.string_users import StringUsers
from jaxalign.pairs import AllPairs, SoftLabel
from jaxalign.rollouts.enumerate import enumerated

STYLES = StringUsers(length=1)
"""Four users, one of them indifferent, and three answers."""
LAW = np.array([0.2, 0.5, 0.3])


def drawn(actions, asked: str = "Why?", probabilities=None):
    """Answers that are these actions, drawn from `LAW`; all that there are, where their probabilities are given."""
    tokens = np.asarray(actions, np.int32)[None, :, None]
    weights = None if probabilities is None else np.asarray(probabilities, np.float32)[None]
    logps = np.log(LAW[actions][None, :, None] if weights is None else weights[..., None]).astype(np.float32)
    return rollouts([["abc"[each] for each in actions]], asked, tokens=tokens, weights=weights, logps=logps)


def game(k: int, asked: str = "Why?") -> PopulationGame:
    return STYLES.game(asked, k)


def gain(k: int, law=LAW) -> np.ndarray:
    return np.asarray(game(k).gain(jnp.asarray(law, jnp.float32)), np.float64)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_where_all_answers_are_listed_it_is_the_game(k, key):
    listed = drawn([0, 1, 2], probabilities=LAW)
    assert enumerated(listed).all()
    found = KSamples(STYLES, k)(listed, key)
    expected = gain(k)
    np.testing.assert_allclose(found.prefer[0] - 0.5, (expected[:, None] - expected[None]) / 2, atol=1e-6)
    by_user = game(k).gain_by_user(jnp.asarray(LAW, jnp.float32))
    np.testing.assert_allclose(found.scores[0], by_user, atol=1e-6)
    lacking = expected.max() - 1 / (k + 1)
    np.testing.assert_allclose(duality_gap(found.prefer, listed.weights)[0], lacking, atol=1e-6)


def test_it_is_the_oracle_of_rankings(key):
    """The same users who rank a, b, c strictly, as a table of rankings and as annotators."""
    order = np.asarray(RANKING.rankings)
    liking = np.argsort(order, -1).astype(float)
    users = StringUsers(tuple(map(tuple, liking.tolist())), RANKING.weights, length=1)
    named = users.worth("Why?", np.arange(3)[:, None])  # a prompt has styles of its own
    table = dataclasses.replace(RANKING, rankings=tuple(map(tuple, np.argsort(named, -1).tolist())))
    listed = drawn([0, 1, 2], probabilities=LAW)
    for k in (1, 2, 4):
        expected = dataclasses.replace(table, k=k)(listed, key)
        found = KSamples(users, k)(listed, key)
        for one, other in ((found.prefer, expected.prefer), (found.by_annotator, expected.by_annotator)):
            np.testing.assert_allclose(one, other, atol=1e-6)


def test_of_one_sample_it_is_the_game_of_two_answers(key):
    actions = [2, 0, 1, 0, 2]
    found, said = KSamples(STYLES, 1)(drawn(actions), key), STYLES(drawn(actions), key)
    others = (said.by_annotator.sum(-1) - 0.5) / 4
    np.testing.assert_allclose(found.scores, others, atol=1e-6)
    against = np.einsum("o,bom->bm", said.weights, others)
    expected = 0.8 * (against[:, :, None] - against[:, None, :]) / 2
    np.testing.assert_allclose(found.prefer - 0.5, expected, atol=1e-6)


def every_draw(samples: int):
    """All ways to draw so many answers from the law, each with its chance."""
    for actions in itertools.product(range(3), repeat=samples):
        yield list(actions), float(np.prod(LAW[list(actions)]))


@pytest.mark.parametrize(("samples", "k"), [(3, 1), (3, 2), (4, 1), (4, 2), (4, 3)])
def test_scores_are_unbiased_given_their_answer(samples, k, key):
    """Three samples of three answers may be each of them, once: they are no law for that."""
    total, mean = np.zeros(3), np.zeros((3, 4))
    for actions, chance in every_draw(samples):
        scores = KSamples(STYLES, k)(drawn(actions), key).scores[0]
        total[actions[0]] += chance
        mean[actions[0]] += chance * scores[:, 0]
    by_user = np.asarray(game(k).gain_by_user(jnp.asarray(LAW, jnp.float32)))
    np.testing.assert_allclose((mean / total[:, None]).T, by_user, atol=2e-6)


@pytest.mark.parametrize(("samples", "k"), [(2, 1), (3, 1), (3, 2), (4, 2), (4, 3)])
def test_least_squares_on_its_pairs_step_along_the_gain_of_the_game(samples, k, key):
    """Over all draws: the minimiser of Σ weight (h_i − h_j − (2 P(i ≻ j) − 1))² on all pairs is u_k but for a constant:
    for every number of samples, since the factor takes back what one of two says of the other."""
    normal, right = np.zeros((3, 3)), np.zeros(3)
    for actions, chance in every_draw(samples):
        made = drawn(actions)
        groups = AllPairs(SoftLabel())(made, KSamples(STYLES, k)(made, key), key)
        for (first, second), weight, prefer in zip(groups.responses, groups.weight, groups.labels.prefer, strict=True):
            row = np.zeros(3)
            row[actions[first]] += 1
            row[actions[second]] -= 1
            normal += chance * float(weight) * np.outer(row, row)
            right += chance * float(weight) * row * (2 * float(prefer) - 1)
    found, expected = np.linalg.pinv(normal) @ right, gain(k)
    np.testing.assert_allclose(found - LAW @ found, expected - LAW @ expected, atol=2e-6)


def test_nobody_picks_nothing_and_a_user_who_cycles_is_told_of(key):
    assert KSamples(STYLES, 2)(drawn([0, 1, 2, 2]), key).notes["k_samples/picks_off"] < 1e-6
    assert (EXAMPLE(drawn([0, 1, 2, 2]), key).notes["k_samples/picks_off"] < 1e-6).all()
    from jaxalign.oracles.tabular import TabularGame

    cycling = KSamples(TabularGame(), 2)(drawn([0, 1, 2]), key)
    with np.errstate(divide="ignore"):
        odds = 1 / np.asarray(TabularGame().matrix) - 1
    picks = [1 / (1 + odds[one].sum() - odds[one, one]) for one in range(3)]
    np.testing.assert_allclose(cycling.notes["k_samples/picks_off"], abs(sum(picks) - 1), atol=1e-6)


def test_too_few_answers_are_named(key):
    with pytest.raises(DataError, match=r"prompt 'p0' has 3 answers, and k = 3 samples meet another one: 4 are needed"):
        KSamples(STYLES, 3)(drawn([0, 1, 2]), key)


@pytest.mark.parametrize(
    ("oracle", "named"),
    [
        (KSamples(STYLES, 0), "k must be at least 1"),
        (KSamples(RANKING), "RankingPopulation, which meets the policy itself"),
        (KSamples(KSamples(STYLES)), "KSamples, which meets the policy itself"),
        (KSamples(lambda rollouts, key: None), "function, which does not say who its annotators are"),
    ],
)
def test_what_cannot_be_a_population_is_named(oracle, named):
    assert any(re.search(named, sentence) for sentence in oracle.problems())


def test_users_are_found_and_opened(key):
    assert users_of(EXAMPLE) == EXAMPLE.users
    assert users_of(STYLES) == STYLES
    with opened(EXAMPLE, SITE) as judge:
        assert isinstance(judge, KSamples)
        jax.tree.map(np.testing.assert_array_equal, judge(drawn([0, 1, 2]), key), EXAMPLE(drawn([0, 1, 2]), key))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"liking": ()}, "at least one user"),
        ({"liking": ((1.0, 2.0), (1.0,)), "shares": (0.5, 0.5)}, "the same styles"),
        ({"shares": (0.5, 0.5)}, "4 users, and shares of 2"),
        ({"shares": (0.5, 0.5, 0.5, 0.5)}, "sum to 1"),
        ({"length": 0}, "length must be at least 1"),
        ({"penalty": 0.0}, "penalty must be positive"),
        ({"seed": -1}, r"seed: must lie in \[0, 2\^32\), got -1"),
    ],
)
def test_impossible_users_of_strings_are_named(changes, named):
    made = dataclasses.replace(STYLES, **changes)
    with pytest.raises(ConfigError, match=named):
        validate(made)


def test_what_is_written_as_worth_the_same_is_a_tie(key):
    """.3 less a wrong letter's .1 is .2, and .6 less three of them is .3, of which no float knows."""
    assert 0.3 - 0.1 != 0.2
    assert 0.6 - 0.1 * 3 != 0.3
    users = StringUsers(((0.3, 0.2, 0.6), (1e16, 1.0, 1e16)), (0.5, 0.5), length=4, penalty=0.1)
    strings = all_strings(3, 4)
    found = users(rollouts([[str(each) for each in range(81)]], ["ab"], tokens=strings[None]), key)
    style, wrong = users._read("ab", strings)
    tenths = np.array([3, 2, 6])[style] - wrong
    expected = 0.5 + np.sign(tenths[:, None] - tenths[None]) / 2
    np.testing.assert_array_equal(found.by_annotator[0, 0], expected.astype(np.float32))
    order, tied = (np.asarray(each[0]) for each in (users.game("ab").order, users.game("ab").tied))
    np.testing.assert_array_equal(tied, np.diff(tenths[order], prepend=-9) == 0)
    # beside 1e16 a tenth is less than a float tells, and yet a wrong letter costs it
    lost = (wrong[:, None] > wrong[None]) & (style == 0)[:, None] & (style == 0)[None]
    assert (found.by_annotator[0, 1][lost] == 0).all()


def test_users_of_strings_like_what_they_are_said_to_like(key):
    """Of right spellings users like styles as the table says, whatever their letters; a wrong letter costs 1.5."""
    users = StringUsers(length=2)
    strings = np.array(list(itertools.product(range(3), repeat=2)), np.int32)
    for asked in ("ab", "cc"):
        worth = users.worth(asked, strings)
        right = worth[3] == worth[3].max()  # who does not care for styles
        assert right.sum() == 3
        np.testing.assert_allclose(np.sort(worth[:, right], -1), np.sort(users.liking, -1))
        np.testing.assert_allclose(worth[:, right].sum(), np.sum(users.liking))
        assert set((worth[3, ~right] - worth[3, right].max()).tolist()) == {-1.5}
    assert not np.array_equal(users.worth("ab", strings), users.worth("cc", strings))
    made = rollouts([["x", "y"]], ["ab"], tokens=strings[None, [0, 4]])
    found = users(made, key)
    expected = 0.5 + np.sign(users.worth("ab", strings)[:, 0] - users.worth("ab", strings)[:, 4]) / 2
    np.testing.assert_array_equal(found.by_annotator[0, :, 0, 1], expected.astype(np.float32))
    with pytest.raises(DataError, match="no string of 2 of the game's 3 letters"):
        users(drawn([0, 1]), key)


def picked_of_all_sets(prefer: np.ndarray, k: int) -> np.ndarray:
    """How often each answer is picked beside k others, a mean over all sets of them, by a user of these preferences."""
    with np.errstate(divide="ignore"):
        odds = 1 / prefer.astype(np.float64) - 1
    rows = range(len(prefer))
    return np.array(
        [
            np.mean([1 / (1 + odds[i, list(those)].sum()) for those in itertools.combinations({*rows} - {i}, k)])
            for i in rows
        ]
    )


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    home = tmp_path_factory.mktemp("users")
    first, second = (str(judge_directory(home / str(seed), 1, seed)) for seed in (0, 1))
    panel = Panel(
        (
            Weighted(RewardModel(first, name="one"), 0.7, 2.0),
            Weighted(RewardModel(second, name="two"), 0.3, 3.0),
        )
    )
    return {"rewards": panel, "preferences": PreferenceModel(str(judge_directory(home / "p", 4)), temperature=2.0)}


@pytest.mark.parametrize("kind", ["rewards", "preferences"])
def test_learned_judges_are_a_population(kind, learned, key):
    """Two reward models are two users, with their weights as shares, and a preference model is one."""
    texts = [["Because of air.", "It is not blue at all.", "Who knows?", "No."], ["No.", "Yes.", "Is it?", "Maybe so."]]
    asked = rollouts(texts, ["Why is the sky blue?", "Is it?"])
    with opened(learned[kind], SITE) as judge:
        alone = judge(asked, key)
    oracle = KSamples(learned[kind], k=2)
    validate(oracle)
    with opened(oracle, SITE) as judge:
        found = judge(asked, key)
    assert found.annotators == alone.annotators == oracle.names
    assert len(found.annotators) == {"rewards": 2, "preferences": 1}[kind]
    assert set(alone.notes) < set(found.notes)
    expected = [[picked_of_all_sets(user, 2) for user in each] for each in alone.by_annotator]
    np.testing.assert_allclose(found.scores, expected, atol=1e-5)  # of fp32 preferences
    assert found.scores.std() > 0.01
    gains = np.einsum("o,bom->bm", alone.weights, np.asarray(expected))
    np.testing.assert_allclose(found.prefer - 0.5, 0.75 * (gains[:, :, None] - gains[:, None]) / 2, atol=1e-5)
    if kind == "rewards":  # each user picks one of three, by softmax
        np.testing.assert_allclose(found.notes["k_samples/picks_off"], 0, atol=1e-5)
