"""Groups of several answers: which they are, and that losses of lists are trained on them."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from made_rollouts import preferences, rollouts

from jaxalign.config.load import load
from jaxalign.contracts.pairing import CheckedPairing, group_size
from jaxalign.errors import ConfigError
from jaxalign.losses.dpo import DPO
from jaxalign.losses.pro import PRO
from jaxalign.pairings.best_random import BestRandom
from jaxalign.pairings.spread import Spread
from jaxalign.pairs import BestWorst
from jaxalign.training.rows import Sizes
from jaxalign.training.views import view_of


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
    assert lists == Sizes(pairs.prompt, pairs.response, 4)
    assert lists.rows.scored > pairs.rows.scored
    view_of(model, PRO(), 4)
    with pytest.raises(ConfigError, match="reads pairs, and the feedback gives groups of 4 answers"):
        view_of(model, DPO(), 4)
