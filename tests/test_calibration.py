"""How a judge's log-odds are held against labels: by hand, and what scaling, swapping and clustering do."""

import math

import numpy as np
import pytest

from jaxalign.evals.calibration import (
    Judged,
    calibration,
    ece,
    length_bias,
    nll,
    temperature,
)


def drawn(pairs: int = 4000, sharpness: float = 1.0, seed: int = 0) -> Judged:
    """Labels drawn from log-odds z, of a judge who says sharpness · z."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(0, 1.5, pairs)
    prefer = (rng.uniform(size=pairs) < 1 / (1 + np.exp(-odds))).astype(np.float32)
    lengths = rng.integers(1, 30, (pairs, 2))
    return Judged((sharpness * odds).astype(np.float32), prefer, np.arange(pairs) // 8, lengths)


def test_by_hand():
    judged = Judged(np.float32([2, -1, 0, 3]), np.float32([1, 1, 0, 0.25]), np.arange(4), np.array([[3, 1]] * 4))
    np.testing.assert_array_equal(judged.right, [1, 0, 0.5, 0.25])
    sigmoid = lambda z: 1 / (1 + math.exp(-z))  # noqa: E731
    losses = [
        -math.log(sigmoid(2)),
        -math.log(sigmoid(-1)),
        math.log(2),
        -0.25 * math.log(sigmoid(3)) - 0.75 * math.log(sigmoid(-3)),
    ]
    assert nll(judged) == pytest.approx(sum(losses) / 4)
    # confidences 0.88, 0.73, 0.5, 0.95 lie in four bins
    gaps = [1 - sigmoid(2), 0 - sigmoid(1), 0.0, 0.25 - sigmoid(3)]
    assert ece(judged) == pytest.approx(sum(map(abs, gaps)) / 4)
    assert length_bias(judged) == {
        "accuracy_longer_wins": 0.5,
        "accuracy_longer_loses": 0.375,
        "longer_preferred": 0.625,
        "longer_labelled": 0.5625,
    }


@pytest.mark.parametrize("sharpness", [0.2, 1.0, 5.0])
def test_a_temperature_undoes_a_scale(sharpness):
    judged = drawn(sharpness=sharpness)
    assert temperature(judged) == pytest.approx(sharpness * temperature(drawn()), rel=1e-4)
    assert temperature(judged) == pytest.approx(sharpness, rel=0.1)  # 4,000 draws
    found = calibration(judged)
    assert found["nll_calibrated"] <= found["nll"] + 1e-3
    assert found["ece_calibrated"] < 0.04
    assert (found["ece"] > 0.1) == (sharpness != 1.0)


def test_temperatures_have_the_lowest_loss_and_end_somewhere():
    judged = drawn(sharpness=3.0)
    best = temperature(judged)
    assert all(nll(judged, best) < nll(judged, best * factor) for factor in (0.9, 1.1))
    ones = np.ones(3, np.float32)
    right = Judged(2 * ones, ones, np.arange(3), np.ones((3, 2), int))
    wrong = Judged(-2 * ones, ones, np.arange(3), np.ones((3, 2), int))
    assert temperature(right) == pytest.approx(1e-2, rel=1e-3)
    assert temperature(wrong) == pytest.approx(1e2, rel=1e-3)
    assert "nll_calibrated" not in calibration(Judged(ones[:1], ones[:1], np.zeros(1, int), np.ones((1, 2), int)))


def test_swapped_pairs_are_judged_alike():
    judged = drawn()
    swapped = Judged(-judged.log_odds, 1 - judged.prefer, judged.prompt, judged.lengths[:, ::-1])
    for measure in (calibration, length_bias):
        for name, value in measure(judged).items():
            assert measure(swapped)[name] == pytest.approx(value, abs=1e-6), name
