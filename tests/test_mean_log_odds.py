"""Scores by mean log-odds: what they are of a reward, of a cycle, and that self-play by them trains."""

import dataclasses

import jax
import numpy as np
import pytest
from made_rollouts import rollouts
from made_runs import CONFIGS, run_here

from jaxalign.config.load import load
from jaxalign.losses.gpo import GPO
from jaxalign.oracles.annotators import Brevity
from jaxalign.oracles.mean_log_odds import MeanLogOdds, mean_log_odds
from jaxalign.oracles.panel import Panel, Weighted


def test_of_a_reward_it_is_the_reward_less_its_mean():
    """Of one annotator at temperature 0.5: 1 / 0.5 nats a unit of its score."""
    panel = Panel((Weighted(Brevity(enough=2), temperature=0.5),))
    answers = rollouts([["one", "a longer answer than that", "two words"]])
    alone, scored = panel(answers, jax.random.key(0)), MeanLogOdds(panel, scale=0.5)(answers, jax.random.key(0))
    np.testing.assert_allclose(scored.scores, alone.scores - alone.scores.mean(-1, keepdims=True), rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(scored.prefer, alone.prefer)


def test_of_a_cycle_nobody_is_ahead_and_the_mean_is_0():
    cycle = 0.5 + 0.4 * np.array([[0, 1, -1], [-1, 0, 1], [1, -1, 0]])
    even = np.full((1, 3), 1 / 3, np.float32)
    np.testing.assert_allclose(mean_log_odds(cycle[None, None].astype(np.float32), even), 0, atol=1e-6)
    weights = np.array([[0.5, 0.2, 0.3]], np.float32)
    found = mean_log_odds(cycle[None, None].astype(np.float32), weights)[0, 0]
    np.testing.assert_allclose(found, np.log(9) * np.array([0.2 - 0.3, 0.3 - 0.5, 0.5 - 0.2]), rtol=1e-4)
    np.testing.assert_allclose(found @ weights[0], 0, atol=1e-6)


def test_who_is_always_sure_has_as_many_nats_as_fp32_knows():
    sure = np.array([[0.5, 1.0], [0.0, 0.5]], np.float32)
    found = mean_log_odds(sure[None, None], np.full((1, 2), 0.5, np.float32))
    np.testing.assert_allclose(found[0, 0], [8.317766, -8.317766], rtol=1e-5)  # half of log(2^24 − 1)
    assert "scale" in "".join(MeanLogOdds(Panel((Weighted(Brevity()),)), scale=0.0).problems())


def test_self_play_by_scores_trains(tmp_path):
    """On the three-action game, whose oracle gives none itself: without the oracle around it GPO is refused."""
    made = load(CONFIGS / "games" / "three_action.py")
    feedback = dataclasses.replace(made.feedback, oracle=MeanLogOdds(made.feedback.oracle))
    small = dataclasses.replace(
        made, loss=GPO(2.0), iterations=1, swap_every=None, fit=dataclasses.replace(made.fit, epochs=5)
    )
    run_here(dataclasses.replace(small, feedback=feedback), tmp_path / "run")
    with pytest.raises(Exception, match="reads scores and there are none"):
        run_here(small, tmp_path / "refused")
