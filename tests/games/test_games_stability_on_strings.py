"""Verdicts on the games of strings that a transformer plays, prompt by prompt, and what exact recursions come to."""

import numpy as np
import pytest

from jaxalign.games.sampled_games import SampledGames, kl, log_weights, mirror_steps, rounds
from jaxalign.games.stability import Setting, stability
from jaxalign.oracles.cyclic_strings import CyclicStrings, all_strings


@pytest.fixture(scope="module")
def strings() -> SampledGames:
    """Those of `configs/games/cyclic_strings.py`, all 27 answers listed."""
    judge = CyclicStrings(length=3, penalty=0.1, seed=2)
    answers = all_strings(3, 3)
    prefer = np.stack([0.5 + judge.game(asked).advantage(answers) for asked in ("ab", "ba", "bc", "cb")])
    return SampledGames.of(prefer, np.full((4, 27), 1 / 27))


@pytest.mark.parametrize("inner", [2, 3, 4, 6, 9, 12])
def test_rounds_on_strings_come_to_what_is_said_of_each_prompt(strings, inner):
    """3,000 steps of size 6, tau .1. The mean over prompts says less: at .79 one of four circles."""
    found = stability(strings, Setting(6.0, 0.1, inner))
    assert found.local.all()
    ends = rounds(strings.prefer, strings.start, 6.0, 0.1, inner, 3000 // inner)
    left = kl(log_weights(strings.nash), ends)
    assert (left[~found.expanding] < 1e-6).all()
    assert (left[found.expanding] > 1e-2).all()
    if inner == 6:
        assert found.expanding.tolist() == [False, True, False, False]
        assert found.metrics()["align/contraction"] < 0.8


@pytest.mark.parametrize(("tau", "settles"), [(0.1, True), (0.02, False)])
def test_steps_on_strings_come_to_what_is_said_of_each_prompt(strings, tau, settles):
    found = stability(strings, Setting(6.0, tau, None))
    assert (~found.expanding == settles).all()
    left = kl(strings.regularised(tau), mirror_steps(strings.prefer, strings.start, strings.start, 6.0, tau, 3000))
    assert ((left < 1e-6) == settles).all()
