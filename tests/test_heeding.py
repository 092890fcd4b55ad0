"""Groups that would be the same whatever the policy are refused before anything is computed."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from made_examples import examples, named

import jaxalign.pairings
from jaxalign import pairs
from jaxalign.config.load import load, validate
from jaxalign.errors import ConfigError
from jaxalign.experiment import Experiment
from jaxalign.feedback.heeding import heedless, reads_win_rates, unweighted
from jaxalign.losses.dno import DNO
from jaxalign.losses.dpo import DPO
from jaxalign.losses.inpo import INPO
from jaxalign.losses.win_rate_regression import WinRateRegression
from jaxalign.pairings.bottom import BestBottom
from jaxalign.pairings.even_pairs import EvenPairs
from jaxalign.pairs import AllPairs, BestSecond, BestWorst, RandomPair
from jaxalign.rollouts.enumerate import Enumerate
from jaxalign.rollouts.geometric_mixture import GeometricMixture
from jaxalign.types import Groups, Pairing

GAME = load(Path(__file__).parents[1] / "configs" / "games" / "three_action.py")
HEEDING = {"RandomPair", "AllPairs", "EveryAnswer", "LargeMargin", "AgainstAnchor", "AnchorPairs"}
RULES = examples(pairs, Pairing, least=4) | examples(jaxalign.pairings, Pairing, least=5)


def fed(**changes: object) -> Experiment:
    return dataclasses.replace(GAME, feedback=dataclasses.replace(GAME.feedback, **changes))


@dataclasses.dataclass(frozen=True)
class Likeliest:
    """A rule of one's own: the two likeliest answers."""

    def __call__(self, rollouts, preferences, key) -> Groups:
        two = np.argsort(-rollouts.weights, kind="stable")[:, :2]
        count = np.arange(len(two))
        return pairs.labelled(rollouts, preferences, count, two, np.ones(len(two)), pairs.SoftLabel(), key)


@dataclasses.dataclass(frozen=True)
class Broken:
    """A rule that returns none."""

    def __call__(self, rollouts, preferences, key):
        return None


@dataclasses.dataclass(frozen=True)
class Second:
    """A rule that goes by the second of two annotators."""

    def __call__(self, rollouts, preferences, key) -> Groups:
        return AllPairs()(rollouts, dataclasses.replace(preferences, prefer=preferences.by_annotator[:, 1]), key)


@pytest.mark.parametrize("rule", RULES.values(), ids=named)
def test_rules_by_whether_they_ask_for_weights(rule):
    assert unweighted(rule)[0] == (type(rule).__name__ not in HEEDING)


@pytest.mark.parametrize("rule", [BestWorst(), BestSecond(), EvenPairs()], ids=named)
@pytest.mark.parametrize("rollout", [Enumerate(), GeometricMixture(Enumerate(), 0.15)], ids=named)
def test_ranks_and_listed_answers_are_refused_by_name(rule, rollout):
    with pytest.raises(ConfigError, match=rf"feedback\.pairing {type(rule).__name__} takes no notice of how likely"):
        validate(dataclasses.replace(fed(pairing=rule, rollout=rollout), swap_every=None))


def test_what_asks_for_weights_is_not():
    for rule in (RandomPair(), AllPairs()):
        validate(fed(pairing=rule))
    validate(dataclasses.replace(fed(pairing=EvenPairs()), loss=WinRateRegression(0.1, 0.1)))
    assert not heedless(INPO(1.0, 0.1), dataclasses.replace(GAME.feedback, pairing=Likeliest()))
    sampled = load(Path(__file__).parents[1] / "configs" / "tiny_lm.py")
    ranked = dataclasses.replace(sampled.feedback, pairing=BestWorst())
    validate(dataclasses.replace(sampled, feedback=ranked))


def test_a_win_rate_of_two_answers_says_nothing_of_the_others():
    assert heedless(DNO(1.0), fed(pairing=BestWorst()).feedback)
    assert not heedless(DNO(1.0), fed(pairing=EvenPairs()).feedback)


@pytest.mark.parametrize("rule", [Broken(), Second()], ids=named)
def test_a_rule_that_cannot_be_asked_is_told_of_where_groups_are_made(rule):
    assert heedless(INPO(1.0, 0.1), dataclasses.replace(GAME.feedback, pairing=rule)) == ""


def test_settings_that_are_wrong_are_told_and_not_tried():
    with pytest.raises(ConfigError, match="responses must be at least 2") as told:
        validate(dataclasses.replace(fed(pairing=BestBottom(responses=1)), swap_every=None))
    assert "takes no notice" not in str(told.value)


def test_who_reads_win_rates():
    assert [reads_win_rates(loss, 2) for loss in (INPO(1.0, 0.1), DPO(0.1), DNO(1.0))] == [False, False, True]
