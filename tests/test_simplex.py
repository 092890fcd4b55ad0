"""The solver on the simplex: nothing that is found by trying is better, whatever the gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_gradients import KINDS, gradients, grams

from jaxalign.objectives.simplex import minimiser, solved

EXACT = 1e-13
"""Ridge of a Gram matrix that fp64 holds; it costs 3e-7 of s Σ p_i ‖g_i‖."""
COUNT, TRIES = 2500, 300


class Problems:
    """n problems: Gram matrices whose largest entry is 1, b = H w, s = c ‖g_0‖ of weights and radii; or MGDA's."""

    def __init__(self, objectives: int, count: int = COUNT):
        self.rng = np.random.default_rng(objectives)
        found, self.kind = gradients(objectives, count)
        h = grams(found)
        largest = np.diagonal(h, axis1=1, axis2=2).max(1)
        self.h = h / np.where(largest > 0, largest, 1)[:, None, None]
        self.norms = np.sqrt(np.diagonal(self.h, axis1=1, axis2=2))
        weights = self.rng.dirichlet(np.ones(objectives), count)
        c = self.rng.choice([0, 1e-3, 0.1, 0.4, 0.9], count)
        self.b = (self.h * weights[:, None]).sum(-1)
        length = np.sqrt(np.maximum((weights * self.b).sum(-1), 0))
        self.s, self.pull = c * length, (1 + c) * length
        shortest = self.rng.uniform(size=count) < 0.2
        self.b[shortest], self.s[shortest], self.pull[shortest] = 0, 1, 1

    def solved(self) -> np.ndarray:
        with jax.enable_x64(True):
            solve = jax.jit(jax.vmap(lambda h, b, s: minimiser(h, b, s, EXACT)))
            return np.asarray(solve(*map(jnp.asarray, (self.h, self.b, self.s))))

    def value(self, p: np.ndarray) -> np.ndarray:
        squares = np.einsum("ni,nij,nj->n", p, self.h, p)
        return (self.b * p).sum(-1) + self.s * np.sqrt(np.maximum(squares, 0))

    def unit(self, p: np.ndarray) -> np.ndarray:
        """What the terms of a value are of the size of."""
        return self.pull * (p * self.norms).sum(-1)

    def tries(self, p: np.ndarray):
        """Points anywhere, near p, near its corners, and evenly in what each gradient contributes."""
        count, objectives = p.shape
        floor = np.where(self.norms > 0, self.norms, 1)
        for number in range(TRIES):
            drawn = self.rng.dirichlet(np.full(objectives, 10 ** self.rng.uniform(-2, 1)), count)
            near = p * 10 ** self.rng.normal(0, 10 ** self.rng.uniform(-6, 0), p.shape)
            mixed = near + 10 ** self.rng.uniform(-8, -1, (count, 1)) * drawn
            found = (drawn, near, mixed, drawn / floor, near + 10 ** self.rng.uniform(-8, 0) * drawn / floor)[
                number % 5
            ]
            yield found / found.sum(1, keepdims=True)


@pytest.mark.parametrize("objectives", [2, 3, 4, 5])
def test_no_point_that_is_tried_is_better(objectives):
    """2,500 matrices of each size, a seventh of each kind, with entries from 1e-24 to 1e12 before they are scaled."""
    problems = Problems(objectives)
    p = problems.solved()
    assert np.isfinite(p).all()
    assert (p >= 0).all()
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-12)
    least, unit = problems.value(p), problems.unit(p)
    for point in problems.tries(p):
        worse = problems.value(point) - least
        assert (worse >= -1e-6 * np.maximum(unit, problems.unit(point)) - 1e-15).all(), KINDS[
            problems.kind[worse.argmin()]
        ]


@pytest.mark.parametrize("objectives", [2, 3, 5, 9])
def test_a_point_is_the_least_where_its_slopes_say_so(objectives):
    """Φ(q) ≥ the least slope at p, for every q: of gradients of like size no other proof is needed."""
    problems = Problems(objectives, 700)
    p = problems.solved()
    pulls = np.einsum("nij,nj->ni", problems.h, p)
    size = np.sqrt(np.maximum((p * pulls).sum(-1), 0))
    slopes = problems.b + np.where(size > 0, problems.s / np.where(size > 0, size, 1), 0)[:, None] * pulls
    bound = (problems.value(p) - slopes.min(-1)) / np.where(problems.unit(p) > 0, problems.unit(p), 1)
    rough = (size <= 1e-6 * (p * problems.norms).sum(-1)) | np.isin(problems.kind, [1, 5])
    assert (~rough).mean() > 0.4
    assert bound[~rough].max() < 1e-6


def test_corners_ties_and_nothing_at_all():
    def found(h, b, s):
        with jax.enable_x64(True):
            h, b = np.asarray(h, np.float64), np.asarray(b, np.float64)
            return np.asarray(minimiser(jnp.asarray(h), jnp.asarray(b), jnp.float64(s), EXACT))

    assert found([[4.0]], [1.0], 1.0).tolist() == [1.0]
    assert found(np.eye(2), [1.0, -1.0], 0.0).tolist() == [0.0, 1.0]
    np.testing.assert_allclose(found(np.eye(2), [0.0, 0.0], 1.0), [0.5, 0.5])
    np.testing.assert_allclose(found([[1.0, 0.0], [0.0, 4.0]], [0.0, 0.0], 1.0), [0.8, 0.2])
    np.testing.assert_allclose(found(np.diag([1.0, 2.0, 4.0]), np.zeros(3), 1.0), np.array([4, 2, 1]) / 7, rtol=1e-9)
    np.testing.assert_allclose(found([[1.0, 1.0], [1.0, 1.0]], [1.0, 1.0], 1.0), [0.5, 0.5])
    for size in (2, 3):
        assert found(np.zeros((size, size)), np.zeros(size), 0.0).sum() == pytest.approx(1)


def test_elimination_solves():
    rows = np.random.default_rng(0).normal(size=(6, 9))
    with jax.enable_x64(True):
        matrix, right = jnp.asarray(rows @ rows.T), jnp.asarray(rows[:, :2])
        np.testing.assert_allclose(matrix @ solved(matrix, right), right, atol=1e-12)
