"""Flash attention of tree rows as Mosaic kernels for TPU, forward and backward: scores stay in VMEM.

    grid (KV heads, visits)   the blocks of keys that each block of queries visits, listed from the ids before the
                              kernel runs (`visits`): what group, branch, causality or window rule out costs nothing
    forward                   `forward`: 2 products a visit
    backward                  `backward`: 5 products a visit

after FlashAttention-2 (Dao 2023, arXiv 2307.08691). All queries that share a KV head are handled together; arrays are
read where the projections write them, [n s heads·h]; heads are padded to whole lanes, rows to whole blocks. The query
is multiplied with log2(e) / sqrt(scalar) once a block and rounded to the dtype of the products again: a second rounding
of the query, of the size of the one that made it. The number kept for the backward pass is log2 Σ 2^z.
"""

from functools import lru_cache, partial
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from jaxalign.mesh.rounding import rounded
from jaxalign.ops.attention.costs import kernel_name
from jaxalign.ops.attention.engine import Engine, Gradients
from jaxalign.ops.attention.mosaic import backward as backward_kernel
from jaxalign.ops.attention.mosaic import forward as forward_kernel
from jaxalign.ops.attention.mosaic.blocks import LANES, Blocks, Chip, Shape, chip, fit, usual_visits
from jaxalign.ops.attention.mosaic.call import Grid, Spec, like
from jaxalign.ops.attention.mosaic.visits import as_rows, codes, padded, visits
from jaxalign.ops.attention.problem import Problem, Scores


def shape_of(problem: Problem, scores: Scores) -> Shape:
    """Sizes as the kernels have them."""
    (n, q, k, g, h), c = problem.query.shape, problem.key.shape[3]
    return Shape(n, q, c, k, g, rounded(h, LANES), problem.query.dtype.itemsize, scores.causal)


def refuses(problem: Problem, scores: Scores, device: Chip) -> str | None:
    """Why the kernels do not take a problem."""
    dtypes = {each.dtype for each in (problem.query, problem.key, problem.value)}
    if len(dtypes) > 1 or not dtypes <= {jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float32)}:
        return f"products of {sorted(map(str, dtypes))}"
    shape = shape_of(problem, scores)
    found = (fit(kernel, device, shape) for kernel in ("forward", "backward"))
    return next((each for each in found if isinstance(each, str)), None)


class _Operands:
    """A problem's arrays as the kernels read them, and the grid of its visits."""

    def __init__(self, kernel: str, problem: Problem, scores: Scores, device: Chip, interpret: Any) -> None:
        self.shape, self.problem, self.kernel = shape_of(problem, scores), problem, kernel
        blocks = fit(kernel, device, self.shape)
        if isinstance(blocks, str):
            raise ValueError(f"attention: {blocks}")
        self.blocks: Blocks = blocks
        self.rows, self.columns = rounded(self.shape.q, blocks.queries), rounded(self.shape.c, blocks.keys)
        mine, theirs = codes(padded(problem.mine, self.rows), padded(problem.theirs, self.columns))
        found = visits(mine, theirs, problem.window, scores.causal, (blocks.queries, blocks.keys), blocks.part)
        self.grid = Grid(found, problem.window, blocks, self.shape, device.vmem, interpret)
        self.read: dict[str, Spec] = {
            "query_block": self.grid.queries(self.of_queries(problem.query)),
            "key_block": self.grid.keys(self.of_keys(problem.key.transpose(0, 3, 1, 2))),
            "value_block": self.grid.keys(self.of_keys(problem.value.swapaxes(1, 2))),
            "mine": self.grid.mine(as_rows(mine)),
            "theirs": self.grid.theirs(as_rows(theirs)),
        }

    @property
    def name(self) -> str:
        s, b = self.shape, self.blocks
        return kernel_name(self.kernel, s.k * usual_visits(b, s), s.g * b.queries, b.keys, s.h)

    def of_queries(self, array: Array) -> Array:
        """[n q k g h] as [n q k·g·h], padded."""
        return self._flat(array, self.rows)

    def of_keys(self, array: Array) -> Array:
        """[n c k h] as [n c k·h], padded."""
        return self._flat(array, self.columns)

    def _flat(self, array: Array, rows: int) -> Array:
        widths = [(0, 0)] * array.ndim
        widths[1], widths[-1] = (0, rows - array.shape[1]), (0, self.shape.h - array.shape[-1])
        filled = jnp.pad(array, widths) if any(after for _, after in widths) else array
        return filled.reshape(self.shape.n, rows, -1)

    def query_like(self, array: Array) -> Array:
        """Back from `of_queries`."""
        s, h = self.shape, self.problem.query.shape[-1]
        return array.reshape(s.n, self.rows, s.k, s.g, s.h)[:, : s.q, ..., :h]

    def key_like(self, array: Array) -> Array:
        """Back from `of_keys`."""
        s, h = self.shape, self.problem.query.shape[-1]
        return array.reshape(s.n, self.columns, s.k, s.h)[:, : s.c, ..., :h]

    def numbers(self, array: Array) -> Array:
        """[n k g q], padded; what padding has is multiplied with 0."""
        return jnp.pad(array, ((0, 0), (0, 0), (0, 0), (0, self.rows - array.shape[3])))


def forward(problem: Problem, scores: Scores, device: Chip, interpret: Any = False) -> tuple[Array, Array]:
    """What the queries find, and log2 Σ 2^z of each."""
    made = _Operands("forward", problem, scores, device, interpret)
    grid, s, b = made.grid, made.shape, made.blocks
    query = made.read["query_block"][0]
    numbers = jnp.zeros((s.n, s.k, s.g, made.rows), jnp.float32)
    found = grid.call(
        made.name,
        partial(forward_kernel.body, scores=scores, group=s.g, blocks=b),
        made.read,
        {"found": grid.queries(like(query)), "lse": grid.number(like(numbers))},
        {
            "scaled": grid.scratch(s.g, b.queries, s.h, dtype=query.dtype),
            "m": grid.scratch(s.g, b.queries),
            "mass": grid.scratch(s.g, b.queries),
            "sums": grid.scratch(s.g, s.h, b.queries),
            "mask": grid.scratch(b.part, b.part),
        },
    )
    return made.query_like(found["found"]), found["lse"][..., : s.q]


def backward(
    problem: Problem, scores: Scores, found: Array, lse: Array, of_found: Array, device: Chip, interpret: Any = False
) -> Gradients:
    """Gradients of query, key and value."""
    made = _Operands("backward", problem, scores, device, interpret)
    grid, s, b = made.grid, made.shape, made.blocks
    query, key = made.read["query_block"][0], made.read["key_block"][0]
    operands = {
        **made.read,
        "found": grid.queries(made.of_queries(found)),
        "of_found": grid.queries(made.of_queries(of_found)),
        "lse": grid.number(made.numbers(lse)),
    }
    rows = grid.scratch(s.g, s.h, b.queries, dtype=query.dtype)
    columns = grid.scratch(s.g, b.queries, LANES)
    row = grid.scratch(made.columns // b.keys, s.h, b.keys)
    got = grid.call(
        made.name,
        partial(backward_kernel.body, scores=scores, group=s.g, blocks=b),
        operands,
        {"of_query": grid.queries(like(query)), "of_key": grid.row(like(key)), "of_value": grid.row(like(key))},
        {
            "scaled": grid.scratch(s.g, b.queries, s.h, dtype=query.dtype),
            "scaled_rows": rows,
            "of_found_rows": rows,
            "shared": columns,
            "lse_column": columns,
            "query_sums": grid.scratch(s.g, b.queries, s.h),
            "key_sums": row,
            "value_sums": row,
            "mask": grid.scratch(b.part, b.part),
        },
    )
    of_key, of_value = made.key_like(got["of_key"]), made.key_like(got["of_value"])
    return made.query_like(got["of_query"]), of_key.transpose(0, 2, 3, 1), of_value.swapaxes(1, 2)


@lru_cache
def engine(generation: str, interpret: Any = False) -> Engine:
    """The kernels for a TPU generation. Raises ValueError for one that `tuning.json` has no blocks for."""
    return of_chip(chip(generation), interpret)


def of_chip(device: Chip, interpret: Any = False) -> Engine:
    """The kernels with these blocks."""
    return Engine(
        "pallas_tpu",
        partial(forward, device=device, interpret=interpret),
        partial(backward, device=device, interpret=interpret),
        base=2.0,
    )
