"""What the kernels make of a tile: products, columns of what lies in rows of lanes, and who may see whom."""

import math
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array

from jaxalign.ops.attention.mosaic.blocks import LANES, Blocks
from jaxalign.ops.attention.mosaic.visits import WHOLE, part_bit
from jaxalign.ops.attention.problem import Scores

Refs = dict[str, Any]
Tile = tuple[int, Any]
"""a query head of the KV head, and some of the block's queries"""

NT = (((1,), (1,)), ((), ()))  # x yᵀ
NN = (((1,), (0,)), ((), ()))  # x y

LOG2E = math.log2(math.e)

NEGATIVE = -1e30
"""Where running maxima start: finite, so that the difference of two of them is 0 and not NaN."""

MASKED = 2 * NEGATIVE
"""Added to the score of what may not be seen: 2^(MASKED − NEGATIVE) is 0 as well."""


def dot(left: Array, right: Array, contract: Any) -> Array:
    """A product accumulated in fp32."""
    # the matrix units multiply bf16: fp32 takes several passes of them, and gets one unless it asks for more
    precision = jax.lax.Precision.HIGHEST if left.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    return jax.lax.dot_general(left, right, contract, precision=precision, preferred_element_type=jnp.float32)


def across(values: Array, width: int) -> Array:
    """[n 128] with equal lanes, repeated to [n width], whole registers of lanes."""
    return jnp.concatenate([values] * (width // LANES), axis=1)


def column(row: Array) -> Array:
    """A row [1 n] as [n 128] with equal lanes."""
    # Mosaic transposes whole tiles, so the row is first repeated over 128 sublanes
    return jnp.broadcast_to(row, (LANES, row.shape[1])).T


def ranges(whole: int, part: int) -> list[Any]:
    """A block in parts."""
    return [pl.ds(start, part) for start in range(0, whole, part)]


def branches(flags: Array, group: int, blocks: Blocks, visit: Callable[[list[Tile], Any, bool], None]) -> None:
    """`visit(tiles, keys, whether masked)` of all that is seen of two blocks.

    Blocks that are seen whole have straight-line code of their own, with nothing to decide inside. Of others, only the
    parts in which something is seen are computed.
    """
    heads = range(group)

    @pl.when(flags & WHOLE != 0)
    def _() -> None:
        order = [(head, queries) for head in heads for queries in ranges(blocks.queries, blocks.sub)]
        visit(order, pl.ds(0, blocks.keys), False)

    down, across = ranges(blocks.queries, blocks.part), ranges(blocks.keys, blocks.part)
    for (a, queries), (b, keys) in product(enumerate(down), enumerate(across)):
        masked = (flags & WHOLE == 0) & (flags & part_bit(len(across), a, b) != 0)
        pl.when(masked)(partial(visit, [(head, queries) for head in heads], keys, True))


def factor(scores: Scores) -> float:
    """What a query is multiplied with, once, so that q·k is the exponent of 2, or what tanh is taken of."""
    return (LOG2E if scores.cap is None else 1 / scores.cap) / math.sqrt(scores.scalar)


def exponent(scaled: Array, scores: Scores) -> Array:
    """The score as an exponent of 2, of the product of a key and a query that was multiplied with `factor`."""
    return scaled if scores.cap is None else jnp.tanh(scaled) * (scores.cap * LOG2E)


def mask(refs: Refs, queries: Any, keys: Any, transposed: bool) -> Array:
    """0 where a query sees a key, MASKED where not, [q c] or transposed [c q]."""
    mine, theirs = refs["mine"][0, :, queries], refs["theirs"][0, :, keys]
    rows, columns = mine.shape[1], theirs.shape[1]
    own, trunk, at = (mine[i : i + 1] for i in range(3))
    code, place = theirs[0:1], theirs[2:3]
    if transposed:
        code, place = (across(column(each), rows) for each in (code, place))
    else:
        own, trunk, at = (across(column(each), columns) for each in (own, trunk, at))
    far = at - place
    seen = ((code == own) | (code == trunk)) & (far >= 0)
    if "window" in refs:
        seen &= far < refs["window"][0]
    return jnp.where(seen, 0.0, MASKED)
