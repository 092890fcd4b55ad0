"""Exact Nash equilibria by linear programming (HiGHS through SciPy), for checking what the learners find."""

import numpy as np
from jaxtyping import Float
from scipy.optimize import linprog


def nash(prefer: Float[np.ndarray, "v v"]) -> Float[np.ndarray, " v"]:
    """A symmetric equilibrium policy: maximise z subject to Σ_i π_i prefer[i, j] >= z for every j.

    Where equilibria are many, a vertex of their polytope. Exact to HiGHS's feasibility tolerance of 1e-7, which is
    absolute: the program is scaled by the largest |prefer - 1/2|, so that faint preferences are solved as closely as
    strong ones. Raises ArithmeticError when the solver fails.
    """
    size, margin = len(prefer), prefer - 0.5
    largest = float(np.abs(margin).max())
    margin = margin / largest if largest > 0.0 else margin
    cost = np.zeros(size + 1)
    cost[-1] = -1.0
    found = linprog(
        cost,
        A_ub=np.hstack([-margin.T, np.ones((size, 1))]),
        b_ub=np.zeros(size),
        A_eq=np.hstack([np.ones((1, size)), np.zeros((1, 1))]),
        b_eq=[1.0],
        bounds=[(0.0, None)] * size + [(None, None)],
        method="highs",
    )
    if not found.success:
        raise ArithmeticError(f"the linear program of the equilibrium was not solved: {found.message}")
    policy = np.maximum(found.x[:-1], 0.0)
    return policy / policy.sum()
