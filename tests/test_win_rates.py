"""Win rates between policies: relations, laying answers side by side."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_heldout import ANSWERS, ASKED, held_out, panel
from made_rollouts import preferences, random_prefer, rollouts

from jaxalign.errors import DataError
from jaxalign.evals.cycles import Cycles
from jaxalign.evals.side_by_side import side_by_side
from jaxalign.evals.win_rate import WinRate, between, format_matrix, rates, rates_by_prompt, win_rate_matrix


def test_a_policy_against_itself_is_exactly_even():
    """It is known, whichever pairs are counted: no error, no width."""
    metrics = WinRate()(held_out(1))
    shares = {name: metrics.pop(name) for name in list(metrics) if name.endswith("_share")}
    errors = {name: metrics.pop(name) for name in list(metrics) if name.endswith("_stderr")}
    assert set(metrics.values()) == {0.5}
    assert set(errors.values()) == {0.0}
    assert shares["win_rate_finished/vs_base_share"] == 1.0
    assert "win_rate/vs_previous" not in metrics


def test_win_rate_is_the_mean_over_all_pairs_of_answers():
    context = held_out(2)
    metrics = WinRate(against=("base",))(context)
    rates = []
    for index, asked in enumerate(ASKED):
        pairs = itertools.product(ANSWERS[1][index], ANSWERS[0][index])
        rates.append(np.mean([panel()(rollouts([list(pair)], asked), context.key).prefer[0, 0, 1] for pair in pairs]))
    np.testing.assert_allclose(metrics["win_rate/vs_base"], np.mean(rates), rtol=1e-6)
    assert metrics["win_rate/vs_base_ci95_low"] <= metrics["win_rate/vs_base"] <= metrics["win_rate/vs_base_ci95_high"]
    each = [metrics[f"win_rate/vs_base/{name}"] for name in panel().names]
    np.testing.assert_allclose(np.mean(each), metrics["win_rate/vs_base"], rtol=1e-6)  # equal weights


def test_the_matrix_is_the_win_rates_and_its_complements_are_exact():
    names, matrix = win_rate_matrix(held_out(3))
    assert names == ("base", "iterate-1", "iterate-2")
    np.testing.assert_array_equal(matrix + matrix.T, np.ones((3, 3)))
    np.testing.assert_array_equal(np.diagonal(matrix), np.full(3, 0.5))
    np.testing.assert_allclose(matrix[2, 0], WinRate()(held_out(3))["win_rate/vs_base"], atol=1e-12)  # order of sums
    np.testing.assert_allclose(matrix[2, 1], WinRate()(held_out(3))["win_rate/vs_previous"], atol=1e-12)


def test_the_error_is_over_prompts_and_every_kind_of_rate_has_an_interval():
    context = held_out(2)
    metrics = WinRate(against=("base",))(context)
    pair = (context.current, context.responses["base"])
    each = between(context.preferences("base").prefer, pair)[:, 0, 1]
    assert metrics["win_rate/vs_base_stderr"] == pytest.approx(each.std(ddof=1) / np.sqrt(len(each)))
    kinds = ("win_rate", "win_rate_length_controlled", "win_rate_finished", "win_rate_equally_long")
    for kind in kinds:
        low, rate, high = (metrics[f"{kind}/vs_base{end}"] for end in ("_ci95_low", "", "_ci95_high"))
        assert 0 <= low <= rate <= high <= 1
    # All answers here are finished.
    for end in ("", "_stderr", "_ci95_low", "_ci95_high"):
        assert metrics[f"win_rate_finished/vs_base{end}"] == pytest.approx(metrics[f"win_rate/vs_base{end}"])


def random_pair(seed: int, prompts: int = 60):
    """Answers of two policies of various lengths, some of them cut, and random preferences among them."""
    rng = np.random.default_rng(seed)
    pair = [
        dataclasses.replace(
            rollouts([["x"] * 3] * prompts, lengths=rng.integers(1, 9, (prompts, 3)).astype(np.int32)),
            finished=rng.uniform(size=(prompts, 3)) < 0.7,
        )
        for _ in range(2)
    ]
    return preferences(random_prefer(rng, prompts, 6)), tuple(pair)


@pytest.mark.parametrize("seed", range(5))
def test_rates_by_prompt_have_the_rates_as_their_means_and_their_errors(seed):
    """Of ratios and of the length-controlled rate the linearisation: exact means, and errors but for the fit's ridge
    and for n - 1 of fewer effective prompts than there are."""
    judged, pair = random_pair(seed)
    whole, each = rates(judged, pair), rates_by_prompt(judged, pair)
    assert each.keys() == whole.keys()
    for kind, (found, _) in whole.items():
        assert each[kind].values.mean() == pytest.approx(found.value, abs=1e-12)
        near = 1e-9 if kind == "win_rate" else 0.05
        assert each[kind].values.std(ddof=1) / np.sqrt(60) == pytest.approx(found.stderr, rel=near)


def test_a_kind_that_no_pair_is_of_has_no_rate_by_prompt():
    judged, (first, second) = random_pair(0)
    cut = dataclasses.replace(first, finished=np.zeros_like(first.finished))
    assert "win_rate_finished" not in rates_by_prompt(judged, (cut, second))


def test_swapping_two_policies_swaps_their_win_rates():
    context = held_out(2)
    swapped = dataclasses.replace(context, responses=dict(reversed(context.responses.items())))
    forward, backward = (WinRate(against=("base",))(c)["win_rate/vs_base"] for c in (context, swapped))
    assert forward + backward == 1.0


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_between_is_the_weighted_mean_and_complements_exactly(seed, sizes):
    rng = np.random.default_rng(seed)
    prefer = random_prefer(rng, 5, sum(sizes), ties=0.2)
    weights = [rng.dirichlet(np.ones(size), 5).astype(np.float32) for size in sizes]
    policies = [rollouts([["x"] * size] * 5, weights=each) for size, each in zip(sizes, weights, strict=True)]
    table = between(prefer, policies)
    np.testing.assert_array_equal(table + table.swapaxes(1, 2), np.ones_like(table))
    np.testing.assert_array_equal(table.mean(0) + table.mean(0).T, np.ones(table.shape[1:]))
    last = prefer[:, -sizes[-1] :, : sizes[0]].astype(np.float64)
    expected = np.einsum("bi,bij,bj->b", weights[-1], last, weights[0])
    np.testing.assert_allclose(table[:, -1, 0], expected, atol=1e-6)  # fp32 weights sum to 1 within 1e-7


def test_policies_with_different_numbers_and_lengths_of_answers_are_laid_side_by_side():
    short = rollouts([["a", "b", "c"]], tokens=np.full((1, 3, 2), 7, np.int32))
    long = rollouts([["d"]], tokens=np.full((1, 1, 5), 8, np.int32))
    both = side_by_side([short, long])
    assert both.texts == (("a", "b", "c", "d"),)
    assert both.tokens.tolist() == [[[7, 7, 0, 0, 0]] * 3 + [[8] * 5]]
    assert both.lengths.tolist() == [[2, 2, 2, 5]]
    np.testing.assert_allclose(both.weights.sum(), 1.0)


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        (["Why?", "Who else?"], "prompt 1 is p1 'Who?' to one policy and p1 'Who else?' to another"),
        (["Who?", "Why?"], "prompt 0 is p0 'Why?' to one policy and p0 'Who?' to another"),
        (["Why?"], "prompt 1 is p1 'Who?' to one policy and absent to another"),
        (["Why?", "Who?", "When?"], "prompt 2 is absent to one policy and p2 'When?' to another"),
    ],
)
def test_answers_to_different_prompts_are_never_compared(asked, named):
    policies = [rollouts([["a"]] * 2, ["Why?", "Who?"]), rollouts([["b"]] * len(asked), asked)]
    with pytest.raises(DataError) as refused:
        side_by_side(policies)
    assert named in str(refused.value)
    names = ("base", "iterate-1")
    context = dataclasses.replace(held_out(2), responses=dict(zip(names, policies, strict=True)))
    for measured in (WinRate(), Cycles(), win_rate_matrix):
        with pytest.raises(DataError, match="different prompts"):
            measured(context)


def test_one_id_or_one_text_alone_does_not_make_two_prompts_one():
    one = rollouts([["a"]], "Why?")
    (asked,) = one.prompts
    same = dataclasses.replace(one, prompts=(dataclasses.replace(asked),))
    assert side_by_side([one, same]).prompts == one.prompts
    for other in (dataclasses.replace(asked, id="q"), dataclasses.replace(asked, tools='[{"name": "f"}]')):
        with pytest.raises(DataError, match="different prompts"):
            side_by_side([one, dataclasses.replace(one, prompts=(other,))])


def test_the_table_of_win_rates_is_plain_text():
    table = format_matrix(("base", "iterate-1"), np.array([[0.5, 0.275], [0.725, 0.5]]))
    assert table == "            base  iterate-1\nbase        50.0       27.5\niterate-1   72.5       50.0"
