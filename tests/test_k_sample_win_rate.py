"""Win rates of k samples: sets that are listed, draws that are listed, the game, and who picks what by hand."""

import dataclasses
import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from made_heldout import held_out
from made_rollouts import rollouts

from jaxalign.evals.context import HeldOut
from jaxalign.evals.k_samples import KSampleWinRate
from jaxalign.evals.win_rate import WinRate
from jaxalign.games.universal import ceiling, robust_win_rate, win_rate, worst_against_sets
from jaxalign.oracles.annotators import Brevity, Coverage
from jaxalign.oracles.panel import Panel, Weighted
from jaxalign.oracles.string_users import StringUsers
from jaxalign.types import Rollouts

CLOSE = {"rtol": 0, "atol": 1e-6}
"""Preferences are fp32."""

STYLES = StringUsers(length=1)
OURS, THEIRS = np.array([0.5, 0.2, 0.3]), np.array([0.1, 0.6, 0.3])


def drawn(actions, asked, law=None) -> Rollouts:
    """The same answers to each prompt; all that there are, where a law is given."""
    tokens = np.tile(np.asarray(actions, np.int32)[None, :, None], (len(asked), 1, 1))
    weights = None if law is None else np.tile(np.asarray(law, np.float32), (len(asked), 1))
    logps = None if weights is None else np.log(weights)[..., None]
    texts = [["abc"[each] for each in actions]] * len(asked)
    return rollouts(texts, list(asked), tokens=tokens, weights=weights, logps=logps)


def facing(ours: Rollouts, theirs: Rollouts, users=STYLES) -> HeldOut:
    return dataclasses.replace(
        held_out(1, users), prompts=ours.prompts, responses={"base": theirs, "iterate-1": ours}, pairs=None
    )


def pick(user: np.ndarray, ours: tuple[int, ...], theirs: tuple[int, ...]) -> float:
    """Chance that the pick among answers of these worths, or of these P(i ≻ j), is ours."""
    together = (*ours, *theirs)
    with np.errstate(divide="ignore"):
        chances = [
            1 / (1 + sum(1 / user[one, each] - 1 for at, each in enumerate(together) if at != mine))
            for mine, one in enumerate(together)
        ]
    return float(sum(chances[: len(ours)]))


def by_user(made: Rollouts, users, key) -> tuple[np.ndarray, np.ndarray]:
    said = users(made, key)
    return said.by_annotator.astype(np.float64), np.asarray(said.weights)


@pytest.mark.parametrize(("k", "opponents"), [(1, 1), (2, 1), (3, 1), (2, 2), (4, 3)])
def test_rates_are_means_over_the_sets_that_there_are(k, opponents, key):
    """Of users who are certain and of users who are not, answers that come twice among them."""
    calm = Panel((Weighted(Brevity(), 1.0, 0.3), Weighted(Coverage(), 2.0, 0.2)))
    words = [
        ["Yeast makes gas.", "Gas.", "The dough is warm and it has yeast in it.", "Gas."],
        ["Bread.", "Air", "Gas."],
    ]
    for users, ours, theirs in (
        (STYLES, drawn([0, 1, 2, 0], ["ab"]), drawn([1, 1, 2], ["ab"])),
        (calm, rollouts([words[0]], "Why does bread rise?"), rollouts([words[1]], "Why does bread rise?")),
    ):
        context = facing(ours, theirs, users)
        said = context.preferences("base")
        tables, shares = said.by_annotator[0].astype(np.float64), np.asarray(said.weights)
        sets = list(
            itertools.product(itertools.combinations(range(4), k), itertools.combinations(range(4, 7), opponents))
        )
        expected = np.mean([[pick(user, *each) for each in sets] for user in tables], 1) @ shares
        found = KSampleWinRate((k,), (opponents,)).rates(context, ["base"])["vs_base"]
        np.testing.assert_allclose(found, expected, **CLOSE)


@pytest.mark.parametrize(("k", "opponents"), [(1, 1), (2, 1), (3, 2)])
def test_of_listed_answers_they_are_means_over_every_draw(k, opponents):
    context = facing(drawn(range(3), ["ab"], OURS), drawn(range(3), ["ab"], THEIRS))
    worth = STYLES.worth("ab", np.arange(3)[:, None])
    prefer = 0.5 + np.sign(worth[:, :, None] - worth[:, None, :]) / 2
    expected = sum(
        np.prod(OURS[list(mine)]) * np.prod(THEIRS[list(yours)]) * share * pick(user, mine, yours)
        for user, share in zip(prefer, STYLES.shares, strict=True)
        for mine in itertools.product(range(3), repeat=k)
        for yours in itertools.product(range(3), repeat=opponents)
    )
    found = KSampleWinRate((k,), (opponents,)).rates(context, ["base"])["vs_base"]
    np.testing.assert_allclose(found, expected, **CLOSE)


@pytest.mark.parametrize("k", [1, 2, 8])
def test_of_listed_answers_they_are_those_of_the_game(k):
    asked = ("ab", "bc")
    context = facing(drawn(range(3), asked, OURS), drawn(range(3), asked, THEIRS))
    metrics = KSampleWinRate((k,))(context)
    games = [STYLES.game(each, k) for each in asked]
    ours, theirs = (jnp.log(jnp.asarray(law, jnp.float32)) for law in (OURS, THEIRS))
    expected = np.mean([float(win_rate(game, ours, theirs)) for game in games])
    assert metrics[f"k_samples/{k}/vs_base"] == pytest.approx(expected, abs=1e-5)
    robust = np.mean([float(robust_win_rate(game, ours)) for game in games])
    assert metrics[f"k_samples/{k}/robust"] == pytest.approx(robust, abs=1e-5)
    assert metrics[f"k_samples/{k}/worst"] >= metrics[f"k_samples/{k}/robust"] - 1e-6
    first = [STYLES.worth(each, np.arange(3)[:, None])[0].argmax() for each in asked]
    nash = [np.eye(3, dtype=np.float32)[style] for style in first]
    alone = np.mean([float(robust_win_rate(*each)) for each in zip(games, map(_log, nash), strict=True)])
    if k > 1:  # where the second style comes along: those who like the first, and some of who does not care
        assert alone == pytest.approx(0.46 + 0.15 * k / (k + 1), abs=1e-5)
    assert metrics[f"k_samples/{k}/robust_of_nash"] == pytest.approx(alone, abs=1e-5)
    game = games[0]
    sets = worst_against_sets(np.asarray(game.order), np.asarray(STYLES.shares), OURS, k, 2, np.asarray(game.tied))
    two = dataclasses.replace(
        context, responses={"base": drawn(range(3), asked[:1], OURS)}, prompts=context.prompts[:1]
    )
    assert KSampleWinRate((k,), (2,))(two)[f"k_samples/{k}_against_2/robust"] == pytest.approx(sets, abs=1e-6)


def _log(law: np.ndarray):
    return jnp.log(jnp.maximum(jnp.asarray(law), 1e-30))


def test_one_answer_of_each_is_the_win_rate():
    context = held_out(2)
    metrics, alone = KSampleWinRate((1,))(context), WinRate(("base",))(context)
    for end in ("", "_ci95_low", "_ci95_high", "_stderr"):
        assert metrics[f"k_samples/1/vs_base{end}"] == pytest.approx(alone[f"win_rate/vs_base{end}"], abs=1e-6)


def test_copies_win_half_and_k_of_them_their_share():
    context = facing(drawn(range(3), ["ab", "ca"], OURS), drawn(range(3), ["ab", "ca"], OURS))
    ks, against = (1, 2, 4), (1, 2, 4)
    found = KSampleWinRate(ks, against).rates(context, ["base"])["vs_base"]
    for i, j in itertools.product(range(3), range(3)):
        np.testing.assert_allclose(found[i, j], ceiling(ks[i], against[j]), **CLOSE)


def test_more_samples_win_more_and_more_opponents_less():
    rng = np.random.default_rng(0)
    ours, theirs = (drawn(rng.integers(0, 3, 8), ["ab", "cb"]) for _ in range(2))
    found = KSampleWinRate((1, 2, 4, 8), (1, 2, 4)).rates(facing(ours, theirs), ["base"])["vs_base"]
    assert (np.diff(found, axis=0) >= -1e-9).all()
    assert (np.diff(found, axis=1) <= 1e-9).all()


def test_order_of_answers_changes_nothing():
    ours, theirs = drawn([0, 1, 2, 0], ["ab"]), drawn([1, 1, 2], ["ab"])
    turned = facing(drawn([2, 0, 0, 1], ["ab"]), drawn([2, 1, 1], ["ab"]))
    one, other = (KSampleWinRate((1, 2), (1, 2))(each) for each in (facing(ours, theirs), turned))
    assert one == pytest.approx(other, abs=1e-9)


def test_what_each_user_likes_best_of_theirs_opposes_too():
    """The one who does not care for styles has the first as its favourite."""
    context = facing(drawn([0, 0, 1], ["ab"]), drawn([2, 1], ["ab"]))
    worth = STYLES.worth("ab", np.array([[0], [0], [1], [2], [1]]))
    prefer = 0.5 + np.sign(worth[:, :, None] - worth[:, None, :]) / 2
    rates = KSampleWinRate((2,)).rates(context, ["base"])
    for user in range(4):
        favourite = 3 + int(worth[user, 3:].argmax())
        sets = list(itertools.combinations(range(3), 2))
        expected = np.mean([[pick(each, ours, (favourite,)) for ours in sets] for each in prefer], 1) @ STYLES.shares
        np.testing.assert_allclose(rates[f"vs_base/best_for/user {user}"], expected, **CLOSE)
    least = min(float(each[0, 0].mean()) for each in rates.values())
    assert KSampleWinRate((2,))(context)["k_samples/2/worst"] == pytest.approx(least)


def test_answers_that_come_again_are_counted_once():
    one = drawn([0, 0, 1, 2], ["ab"])
    found = KSampleWinRate((1, 2, 4)).distinct(one)
    # of six pairs of four answers one is of the same text
    assert found == pytest.approx(
        {"k_samples/1/distinct": 1, "k_samples/2/distinct": (11 / 6) / 2, "k_samples/4/distinct": 3 / 4}
    )
    listed = KSampleWinRate((2,)).distinct(drawn(range(3), ["ab"], OURS))
    assert listed["k_samples/2/distinct"] == pytest.approx((1 + 1 - (OURS**2).sum()) / 2, abs=1e-6)


def test_more_answers_than_there_are_are_left_out():
    found = KSampleWinRate((1, 2, 4), (1, 2, 4))(held_out(2))
    shown = {name.split("/")[1] for name in found}
    assert shown == {"1", "2", "1_against_2", "2_against_2"}
    alone = KSampleWinRate()(held_out(1))
    assert set(alone) == {"k_samples/1/distinct", "k_samples/2/distinct"}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"ks": ()}, "ks must be different numbers of at least 1"),
        ({"ks": (1, 1)}, "ks must be different"),
        ({"opponents": (0,)}, "opponents must be different numbers of at least 1"),
        ({"earlier": 0}, "earlier must be at least 1"),
    ],
)
def test_impossible_numbers_are_named(changes, named):
    assert any(named in sentence for sentence in KSampleWinRate(**changes).problems())
