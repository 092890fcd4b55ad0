"""Which blocks of keys each block of queries visits: what group, branch, causality or window rule out is never fetched.

A block is summed up by the ends of its ids: its groups, its branches, the groups whose trunk it holds, its positions.
Groups stand one behind the other in a row, and in a group the trunk before the branches one by one, so where two ranges
of ids meet, an id is in both; ids in another order are still right, and some blocks are visited in vain.

Letters besides those of `ops.attention.problem`: i blocks of queries, j blocks of keys, t visits of all rows.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from jaxalign.mesh.rounding import rounded
from jaxalign.ops.attention.sight import Tree
from jaxalign.types import pytree

FIRST, LAST, WHOLE, OPENS, CLOSES = (1 << bit for bit in range(5))
"""Of a visit: the first and the last of its block of queries, every query sees every key, first and last of its row.
The bits above say in which parts of the two blocks anything is seen, see `part_bit`."""

FAR = 1 << 30


def part_bit(across: int, query: int, key: int) -> int:
    """The flag of one part of the queries and one of the `across` parts of the keys."""
    return 1 << (5 + query * across + key)


@pytree
class Codes:
    """Ids that one comparison tells apart: a query sees the keys whose `own` is its own or that of its trunk, if they
    are not later. Padding has codes that nothing sees and that see nothing."""

    own: Int[Array, "n s"]
    trunk: Int[Array, "n s"]
    position: Int[Array, "n s"]


@pytree
class Visits:
    """Pairs of blocks in the order in which they are visited: by row, block of queries, block of keys. The first
    `count` entries count."""

    row: Int[Array, " t"]
    query: Int[Array, " t"]
    key: Int[Array, " t"]
    flags: Int[Array, " t"]
    count: Int[Array, ""]


def codes(mine: Tree, theirs: Tree) -> tuple[Codes, Codes]:
    """Of queries and of keys. Groups times branches must stay below 2³¹."""
    branches = 1 + jnp.maximum(mine.branch.max(), theirs.branch.max())

    def of(ids: Tree, nobody: int) -> Codes:
        real, trunk = ids.group >= 0, ids.group * branches
        return Codes(jnp.where(real, trunk + ids.branch, nobody), jnp.where(real, trunk, nobody), ids.position)

    return of(mine, -2), of(theirs, -1)


@pytree
class _Ends:
    """Least and greatest of some ids in each block of columns; the greatest is below the least where there are none."""

    least: Int[Array, "n i"]
    greatest: Int[Array, "n i"]

    def meets(self, other: "_Ends") -> Bool[Array, "n i j"]:
        """Whether the ranges of these blocks and those of the others have a number in common."""
        below = self.least[:, :, None] <= other.greatest[:, None]
        return below & (other.least[:, None] <= self.greatest[:, :, None])

    @property
    def one(self) -> Bool[Array, "n i"]:
        return self.least == self.greatest


def _ends(ids: Int[Array, "n s"], counts: Bool[Array, "n s"], block: int) -> _Ends:
    def blocks(filled: Array) -> Array:
        return filled.reshape(*ids.shape[:-1], -1, block)

    least, greatest = blocks(jnp.where(counts, ids, FAR)).min(-1), blocks(jnp.where(counts, ids, -FAR)).max(-1)
    return _Ends(least, greatest)


def seen(
    mine: Codes, theirs: Codes, window: Int[Array, ""] | None, causal: bool, blocks: tuple[int, int]
) -> tuple[Bool[Array, "n i j"], Bool[Array, "n i j"]]:
    """Which blocks of queries may see something of which blocks of keys, and which see all of it."""
    rows, columns = blocks
    real, there = mine.own >= 0, theirs.own >= 0
    stems = there & (theirs.own == theirs.trunk)
    trunks = _ends(mine.trunk, real, rows)
    asked, own = _ends(mine.position, real, rows), _ends(mine.own, real, rows)
    kept, held = _ends(theirs.position, there, columns), _ends(theirs.own, there, columns)
    known = trunks.meets(_ends(theirs.own, stems, columns)) | own.meets(held)
    late = asked.greatest[:, :, None] >= kept.least[:, None]
    found = known & late
    full = real.reshape(*real.shape[:-1], -1, rows).all(-1)[:, :, None]
    full &= there.reshape(*there.shape[:-1], -1, columns).all(-1)[:, None]
    trunk, branch = trunks.least[:, :, None], own.least[:, :, None]
    first, last = held.least[:, None], held.greatest[:, None]
    # keys of the trunk of all queries; or all queries in one branch, and keys of it and, where no branch has a code
    # between the two, of its trunk
    stem = trunks.one[:, :, None] & (first == trunk) & (last == trunk)
    path = own.one[:, :, None] & (last == branch) & ((first == branch) | ((first == trunk) & (branch - trunk <= 1)))
    every = full & (stem | path) & (asked.least[:, :, None] >= kept.greatest[:, None])
    if window is not None:
        found &= asked.least[:, :, None] - kept.greatest[:, None] < window
        every &= asked.greatest[:, :, None] - kept.least[:, None] < window
    if causal:
        # nothing further right is ever seen; positions alone do not say so of another group's block
        last = (1 + jnp.arange(found.shape[1])) * rows
        found &= (jnp.arange(found.shape[2])[None] * columns < last[:, None])[None]
    return found, found & every


def most(n: int, queries: int, keys: int, causal: bool, blocks: tuple[int, int]) -> int:
    """Visits at most, of n rows: whole blocks of both."""
    rows, columns = blocks
    if not causal:
        return n * (queries // rows) * (keys // columns)
    return n * sum(min(-(-end // columns), keys // columns) for end in range(rows, queries + 1, rows))


def visits(
    mine: Codes, theirs: Codes, window: Int[Array, ""] | None, causal: bool, blocks: tuple[int, int], part: int
) -> Visits:
    """All pairs of blocks to visit, with flags of their parts, of `part` queries and keys each. A block of queries that
    sees nothing visits one all the same, and so is written."""
    down, across = blocks[0] // part, blocks[1] // part
    _, every = seen(mine, theirs, window, causal, blocks)
    n, i, j = every.shape
    parts, _ = seen(mine, theirs, window, causal, (part, part))
    parts = parts.reshape(n, i, down, j, across).swapaxes(2, 3)
    found = parts.any((3, 4))
    blind = ~found.any(-1, keepdims=True)
    found |= blind & (jnp.arange(j) == 0)[None, None]
    size = most(n, mine.own.shape[1], theirs.own.shape[1], causal, blocks)
    (flat,) = jnp.nonzero(found.reshape(-1), size=size, fill_value=0)
    count = found.sum(dtype=jnp.int32)
    row, query, key = (each.astype(jnp.int32) for each in jnp.unravel_index(flat, (n, i, j)))

    def changes(ids: Array) -> tuple[Array, Array]:
        """Where another number begins, and where this one ends, among the visits that count."""
        begins = jnp.concatenate([jnp.ones(1, bool), ids[1:] != ids[:-1]])
        return begins, jnp.concatenate([begins[1:], jnp.zeros(1, bool)]) | (jnp.arange(size) == count - 1)

    of_block, of_row = changes(row * i + query), changes(row)
    marks = (*of_block, every.reshape(-1)[flat], *of_row)
    bits = (FIRST, LAST, WHOLE, OPENS, CLOSES)
    flags = sum(jnp.where(mark, bit, 0) for bit, mark in zip(bits, marks, strict=True))
    each = jnp.array([[part_bit(across, a, b) for b in range(across)] for a in range(down)], jnp.int32)
    flags += jnp.where(parts.reshape(-1, down, across)[flat], each[None], 0).sum((1, 2))
    return Visits(row, query, key, jnp.asarray(flags, jnp.int32), count)


def as_rows(ids: Codes) -> Int[Array, "n 3 s"]:
    """Codes a kernel reads, a row of lanes each: own, trunk, position."""
    return jnp.stack([ids.own, ids.trunk, ids.position], axis=1).astype(jnp.int32)


def padded(ids: Tree, length: int) -> Tree:
    """With padding up to so many columns."""
    missing = ((0, 0), (0, length - ids.group.shape[1]))
    group = jnp.pad(ids.group, missing, constant_values=-1)
    return Tree(group, jnp.pad(ids.branch, missing), jnp.pad(ids.position, missing))


@dataclass(frozen=True)
class Count:
    """Visits of one KV head in all rows: how many, those of blocks that are seen whole, and of the others the parts in
    which something is seen."""

    every: int
    whole: int
    parts: int

    def computed(self, blocks: tuple[int, int], part: int) -> int:
        """Pairs of tokens whose scores are computed."""
        return self.whole * blocks[0] * blocks[1] + self.parts * part**2


def counted(ids: Tree, window: Int[Array, ""] | None, blocks: tuple[int, int], part: int) -> Count:
    """What a causal pass over rows of these ids visits."""
    queries, keys = (padded(ids, rounded(ids.group.shape[1], block)) for block in blocks)
    found = visits(*codes(queries, keys), window, True, blocks, part)
    flags = np.asarray(found.flags)[: int(found.count)]
    whole = flags & WHOLE > 0
    # the flags of parts are the bits from `part_bit` on
    parts = np.bitwise_count(flags[~whole] // part_bit(blocks[1] // part, 0, 0))
    return Count(len(flags), int(whole.sum()), int(parts.sum()))
