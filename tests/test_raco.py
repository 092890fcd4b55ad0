"""RACO, CAGrad and MGDA: values of the papers, the bounds they prove, and what no proof needs to be asked for."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_gradients import gradients, grams, of_all

from jaxalign.config.load import docs_of
from jaxalign.contracts.combiner import explained
from jaxalign.errors import BrokenContract
from jaxalign.objectives.cagrad import CAGrad
from jaxalign.objectives.conflict_averse import descent
from jaxalign.objectives.mgda import MGDA
from jaxalign.objectives.raco import RACO

TWO = np.array([[1.0, -4.0], [-1.0, 1.0]])
CLIPPED, WHOLE = RACO((0.2, 0.8), c=0.5, step=0.3), CAGrad((0.2, 0.8), c=0.5, step=0.3)
WEIGHTS = {2: (0.2, 0.8), 3: (0.5, 0.2, 0.3), 5: (0.1, 0.3, 0.2, 0.2, 0.2)}


def gram(rows: np.ndarray) -> jax.Array:
    return jnp.asarray(rows @ rows.T, jnp.float32)


def test_two_gradients_come_to_what_was_printed():
    """g = (1, −4), (−1, 1), w = (.2, .8), c = .5: the numbers that implementations of the paper agree on."""
    clipped, whole = CLIPPED.direction(gram(TWO)), WHOLE.direction(gram(TWO))
    for found in (clipped, whole):
        np.testing.assert_allclose(found.mixture, [0.356145, 0.643855], atol=5e-7)
    np.testing.assert_allclose(clipped.used, [0.2, 0.643855], atol=5e-7)
    np.testing.assert_allclose(whole.used, whole.mixture)
    np.testing.assert_allclose(clipped.coefficients @ TWO, [-0.882999, -0.099557], atol=5e-7)
    np.testing.assert_allclose(whole.coefficients @ TWO, [-0.703735, -0.281494], atol=5e-7)
    np.testing.assert_allclose([whole.alignment, clipped.alignment], [0.345785, 0.943330], atol=5e-7)
    np.testing.assert_allclose(TWO @ (clipped.coefficients @ TWO), [-0.4848, 0.7834], atol=5e-5)
    np.testing.assert_allclose(TWO @ (whole.coefficients @ TWO), [0.4222, 0.4222], atol=5e-5)
    told = [float(each.explain(gram(TWO))["descent"]) for each in (WHOLE, CLIPPED)]
    np.testing.assert_allclose(told, [0.933525, 1.142665], atol=1e-6)


def test_the_two_are_set_by_the_same_settings():
    """Said once: in the same order, with the same defaults, explained alike."""
    assert RACO.__annotations__ == CAGrad.__annotations__ == {}
    assert docs_of(RACO)[1] == docs_of(CAGrad)[1]
    assert list(docs_of(RACO)[1]) == [each.name for each in dataclasses.fields(RACO)] == ["weights", "c", "step"]


def test_what_is_logged_of_a_solve():
    found = explained(CLIPPED, gram(TWO))
    columns = {f"{name}/objective_{index}" for name in ("mixture", "clipped") for index in (0, 1)}
    assert set(found) == {*columns, "alignment", "descent"}
    assert set(explained(MGDA(2), gram(TWO))) == set()


@dataclasses.dataclass(frozen=True)
class Talkative(RACO):
    """Tells a row too many."""

    def explain(self, gram):
        return {"rows": jnp.zeros(3)}


def test_what_is_told_has_one_number_an_objective():
    with pytest.raises(BrokenContract, match=r"Talkative: rows must be a number, or one an objective, \[2\]"):
        explained(Talkative((0.5, 0.5)), gram(TWO))


@pytest.mark.parametrize("objectives", WEIGHTS)
@pytest.mark.parametrize("make", [CAGrad, RACO])
def test_directions_stay_near_the_weighted_sum_and_descend_it(make, objectives):
    """‖G − g_0‖ ≤ c ‖g_0‖, so that ⟨G, g_0⟩ ≥ (1 − c) ‖g_0‖²; of any matrices, in fp32."""
    found, _ = gradients(objectives, 700)
    found = found[np.isfinite(grams(found).astype(np.float32)).all((1, 2)) & (np.abs(found).max((1, 2)) > 1e-15)]
    made = of_all(make(WEIGHTS[objectives], c=0.5), found)
    wanted = np.array(WEIGHTS[objectives]) @ found
    length = np.linalg.norm(wanted, axis=1)
    # a sum of opposed gradients is shorter than what fp32 loses of their inner products
    slack = 2e-3 * (np.linalg.norm(found, axis=2) * WEIGHTS[objectives]).sum(1)
    assert np.isfinite(made).all()
    assert (np.linalg.norm(made - wanted, axis=1) <= 0.5 * length + slack).all()
    assert ((made * wanted).sum(1) >= (0.5 * length - slack) * length).all()


def test_a_clip_of_two_objectives_never_turns_away_from_the_weights():
    """Theorem 3.2: Γ(ρ_q) − Γ(ρ_p) = c (1 − ℓη) (ρ_q − ρ_p) ≥ 0."""
    found, _ = gradients(2, 2100)
    matrices = jnp.asarray(grams(found / np.abs(found).max((1, 2), keepdims=True).clip(1e-30)), jnp.float32)
    for weights in ((0.2, 0.8), (0.5, 0.5), (0.9, 0.1)):
        clipped, whole = (
            jax.vmap(make(weights, c=0.4, step=0.3).direction)(matrices).alignment for make in (RACO, CAGrad)
        )
        assert (clipped >= whole - 1e-3).all()
        assert (clipped > whole + 1e-2).mean() > 0.02
        promised = [jax.vmap(partial(descent, c=0.4, step=0.3))(each) for each in (clipped, whole)]
        gain = promised[0] - promised[1]
        np.testing.assert_allclose(gain, 0.4 * 0.7 * (clipped - whole), atol=1e-6)


@pytest.mark.parametrize("objectives", WEIGHTS)
def test_gradient_descent_keeps_the_promises_of_the_theorem(objectives):
    """Theorem 3.1 on quadratic losses: a step lowers L_w by η ‖g_0‖² Γ(ρ) at least, the least gradient is bounded."""
    rng, weights = np.random.default_rng(objectives), np.array(WEIGHTS[objectives])
    roots, goals = rng.normal(size=(objectives, 4, 4)), rng.normal(size=(objectives, 4))
    bends = roots @ roots.swapaxes(1, 2)
    smooth = weights @ np.linalg.eigvalsh(bends)[:, -1]

    def weighted(theta):
        off = theta - goals
        return 0.5 * weights @ np.einsum("oi,oij,oj->o", off, bends, off)

    for share, c in ((1.0, 0.4), (0.3, 0.9)):
        eta, theta, steps = share / smooth, np.full(4, 3.0), 60
        combine = jax.jit(RACO(WEIGHTS[objectives], c=c, step=share).direction)
        begun, squares = weighted(theta), []
        for _ in range(steps):
            rows = np.einsum("oij,oj->oi", bends, theta - goals)
            found = combine(gram(rows))
            before, wanted = weighted(theta), weights @ rows
            theta = theta - eta * np.asarray(found.coefficients, np.float64) @ rows
            promised = eta * wanted @ wanted * float(descent(found.alignment, c, share))
            assert promised >= eta * wanted @ wanted * (1 - c**2) / 2 * (1 - 1e-5)
            assert weighted(theta) <= before - promised * (1 - 1e-4) + 1e-9 * begun
            squares.append(wanted @ wanted)
        assert min(squares) <= 2 * begun / (eta * (1 - c**2) * steps)


def test_cagrad_is_the_best_for_the_worst_objective_within_its_ball():
    rng = np.random.default_rng(0)
    for objectives, weights in WEIGHTS.items():
        rows = rng.normal(size=(objectives, 6))
        wanted = np.array(weights) @ rows
        made = np.asarray(CAGrad(weights, c=0.5)(gram(rows)), np.float64) @ rows
        ball = rng.normal(size=(20_000, 6))
        ball *= 0.5 * np.linalg.norm(wanted) / np.linalg.norm(ball, axis=1, keepdims=True)
        assert (rows @ made).min() >= ((wanted + ball) @ rows.T).min(1).max() - 1e-4


@pytest.mark.parametrize("objectives", WEIGHTS)
def test_the_shortest_mixture_serves_every_objective(objectives):
    """⟨g_i, G⟩ ≥ ‖G‖², and ‖G‖ is the measure of Pareto stationarity: no longer than any weighted sum."""
    found, kind = gradients(objectives, 700)
    found = found[kind != 1] / np.abs(found[kind != 1]).max((1, 2), keepdims=True).clip(1e-30)
    made = of_all(MGDA(objectives), found)
    square, largest = (made**2).sum(1), np.linalg.norm(found, axis=2).max(1)
    assert (np.einsum("nk,nok->no", made, found).min(1) >= square - 2e-3 * largest**2).all()
    assert (np.sqrt(square) <= np.linalg.norm(np.array(WEIGHTS[objectives]) @ found, axis=1) + 2e-3 * largest).all()


@pytest.mark.parametrize(
    "combiner", [RACO(WEIGHTS[3]), CAGrad(WEIGHTS[3]), MGDA(3)], ids=lambda each: type(each).__name__
)
def test_neither_the_unit_nor_the_order_of_objectives_matters(combiner):
    rows, order = np.random.default_rng(3).normal(size=(3, 5)), [2, 0, 1]
    whole = np.asarray(combiner(gram(rows)))
    for unit in (1e-6, 1e6):
        np.testing.assert_allclose(combiner(gram(unit * rows)), whole, rtol=1e-5)
    turned = combiner
    if not isinstance(combiner, MGDA):
        turned = dataclasses.replace(combiner, weights=tuple(combiner.weights[index] for index in order))
    np.testing.assert_allclose(turned(gram(rows[order])), whole[order], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("make", [CAGrad, RACO])
def test_limits(make):
    """No radius: the weighted sum. One objective: 1 + c of its gradient. None that pulls: nothing is divided by 0."""
    rows = np.random.default_rng(5).normal(size=(3, 5))
    np.testing.assert_allclose(make(WEIGHTS[3], c=0.0)(gram(rows)), WEIGHTS[3], rtol=1e-6)
    np.testing.assert_allclose(make((1.0,), c=0.25)(gram(rows[:1])), [1.25], rtol=1e-6)
    np.testing.assert_allclose(make(WEIGHTS[3])(jnp.zeros((3, 3))), WEIGHTS[3], rtol=1e-6)
    opposed = np.stack([rows[0], -rows[0]])
    np.testing.assert_allclose(make((0.5, 0.5))(gram(opposed)), [0.5, 0.5], rtol=1e-3)


@pytest.mark.parametrize(
    ("combiner", "sentence"),
    [
        (RACO((0.5, 0.6)), "weights must be at least 0 and sum to 1"),
        (CAGrad(()), "weights must be at least 0 and sum to 1"),
        (RACO((0.5, 0.5), c=1.0), "c must lie in"),
        (CAGrad((1.0,), step=2.0), "step must lie in"),
        (MGDA(0), "objectives must be at least 1"),
    ],
)
def test_settings_that_mean_nothing_are_named(combiner, sentence):
    assert sentence in "".join(combiner.problems())
