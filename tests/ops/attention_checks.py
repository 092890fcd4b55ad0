"""What every engine of attention must satisfy: the shared base of its tests."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from jaxalign.ops.attention.engine import Engine, attended
from jaxalign.ops.attention.problem import Problem, Scores
from jaxalign.ops.attention.sight import Tree

Group = tuple[int, ...]
"""Tokens of a trunk and of each branch; a trunk may be of none."""

Attend = Callable[[Problem, Scores], jax.Array]


@dataclass(frozen=True)
class Case:
    """One problem, drawn from a seed: `rows` of groups, one behind the other, with padding up to `length`."""

    rows: tuple[tuple[Group, ...], ...]
    length: int
    heads: tuple[int, int, int]
    """KV heads, query heads of each, head size"""
    window: int | None = None
    cap: float | None = None
    dtype: str = "float32"
    causal: bool = True
    seed: int = 0

    @property
    def scores(self) -> Scores:
        return Scores(float(self.heads[2]) / 2, self.cap, self.causal)

    def tree(self) -> Tree:
        rows = [self._row(groups) for groups in self.rows]
        return Tree(*(jnp.asarray(np.array(each), jnp.int32) for each in zip(*rows, strict=True)))

    def _row(self, groups: tuple[Group, ...]) -> tuple[list[int], list[int], list[int]]:
        group, branch, position = [], [], []
        for number, parts in enumerate(groups):
            for which, size in enumerate(parts):
                group += [number] * size
                branch += [which] * size
                start = 0 if which == 0 else parts[0]
                position += range(start, start + size)
        missing = self.length - len(group)
        assert missing >= 0, "the groups are longer than the row"
        return group + [-1] * missing, branch + [0] * missing, position + [0] * missing

    def problem(self) -> Problem:
        n, s, (k, g, h) = len(self.rows), self.length, self.heads
        r = np.random.default_rng(self.seed)
        shapes = ((n, s, k, g, h), (n, k, h, s), (n, k, s, h))
        # scores of standard deviation 2: some queries have one key that counts, some many
        query, key, value = (jnp.asarray(1.2 * r.normal(size=shape), self.dtype) for shape in shapes)
        ids, window = self.tree(), None if self.window is None else jnp.int32(self.window)
        return Problem(query, key, value, ids, ids, window)

    def pulled(self) -> np.ndarray:
        """The gradient of what is found, also of padding, whose own must be 0 all the same."""
        r = np.random.default_rng(self.seed + 1)
        n, s, (k, g, h) = len(self.rows), self.length, self.heads
        return r.normal(size=(n, s, k, g, h)).astype(np.float32)


def truth(case: Case) -> dict[str, np.ndarray]:
    """What is found and the three gradients, in fp64 from the very same inputs, token by token as a tree is read."""
    problem, scores = case.problem(), case.scores
    q, k, v = (np.asarray(each, np.float64) for each in (problem.query, problem.key, problem.value))
    do = np.asarray(jnp.asarray(case.pulled(), case.dtype), np.float64)
    ids = [np.asarray(each) for each in (problem.mine.group, problem.mine.branch, problem.mine.position)]
    seen = np.zeros((len(q), case.length, case.length), bool)
    for n, i, j in np.ndindex(seen.shape):
        (g, b, p), (g2, b2, p2) = ([int(each[n, at]) for each in ids] for at in (i, j))
        near = p2 <= p and (case.window is None or p - p2 < case.window)
        seen[n, i, j] = g >= 0 and g == g2 and b2 in (0, b) and near
    x = np.einsum("nskgh,nkhc->nkgsc", q, k) / np.sqrt(scores.scalar)
    z, slope = x, np.ones_like(x)
    if case.cap is not None:
        z, slope = case.cap * np.tanh(x / case.cap), 1 - np.tanh(x / case.cap) ** 2
    e = np.where(seen[:, None, None], np.exp(z - z.max(-1, keepdims=True)), 0)
    p = e / np.maximum(e.sum(-1, keepdims=True), 1e-300)
    found = np.einsum("nkgsc,nkch->nskgh", p, v)
    dp = np.einsum("nskgh,nkch->nkgsc", do, v)
    dx = p * (dp - (p * dp).sum(-1, keepdims=True)) * slope / np.sqrt(scores.scalar)
    return {
        "found": found,
        "query": np.einsum("nkgsc,nkhc->nskgh", dx, k),
        "key": np.einsum("nkgsc,nskgh->nkhc", dx, q),
        "value": np.einsum("nkgsc,nskgh->nkch", p, do),
    }


@lru_cache
def _passes(attend: Attend, scores: Scores) -> Callable[..., tuple[jax.Array, ...]]:
    """Compiled once for all problems of a shape."""

    def all_of(problem: Problem, pulled: jax.Array) -> tuple[jax.Array, ...]:
        def of(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
            return attend(Problem(query, key, value, problem.mine, problem.theirs, problem.window), scores)

        found, pull = jax.vjp(of, problem.query, problem.key, problem.value)
        return found, *pull(pulled)

    return jax.jit(all_of)


def outcome(attend: Attend, case: Case) -> dict[str, np.ndarray]:
    """The same of an implementation."""
    made = _passes(attend, case.scores)(case.problem(), jnp.asarray(case.pulled(), case.dtype))
    assert all(each.dtype == case.dtype for each in made)
    return {
        name: np.asarray(each, np.float64) for name, each in zip(("found", "query", "key", "value"), made, strict=True)
    }


def engine(made: Engine) -> Attend:
    return lambda problem, scores: attended(made, scores, problem)


def assert_true(attend: Attend, case: Case, tolerance: float) -> None:
    """What is found and each gradient within `tolerance` of fp64, relative to its largest entry; exact zeros where
    nothing is seen. NumPy compares: XLA's maximum on CPU can drop a NaN."""
    expected, got = truth(case), outcome(attend, case)
    for name, wanted in expected.items():
        # a query that sees one key has the gradient 0, the difference of two equal sums of size 1
        near = tolerance * max(np.abs(wanted).max(), 0.05)
        np.testing.assert_allclose(got[name], wanted, atol=near, rtol=0, err_msg=name)
    padding = np.asarray(case.tree().group) < 0
    assert not got["found"][padding].any()
    assert not got["query"][padding].any()
    assert not np.moveaxis(got["key"], 3, 1)[padding].any()
    assert not np.moveaxis(got["value"], 2, 1)[padding].any()


@st.composite
def trees(draw: st.DrawFn, length: int) -> tuple[tuple[Group, ...], ...]:
    """Rows of random groups: single tokens, one group that fills a row, many groups a row, padding or none."""

    def row() -> tuple[Group, ...]:
        made, left = [], length
        while left and draw(st.integers(0, 7)):
            parts = draw(st.lists(st.integers(0, min(left, length)), min_size=1, max_size=4))
            parts = [min(size, left - sum(parts[:i])) for i, size in enumerate(parts)]
            parts = [max(size, 0) for size in parts]
            made.append(tuple(parts))
            left -= sum(parts)
        return tuple(made)

    return tuple(row() for _ in range(2))
