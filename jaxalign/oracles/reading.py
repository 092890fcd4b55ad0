"""A judge's model on the mesh: it reads conversations, and a head says something of the last token of each.

Every conversation is read once, many prompts together, and what those about a prompt begin with is read once for all
of them (see `trees`). Weights are in the compute dtype, split over the run's mesh by the run's own table, and are there
inside a scope only.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from jaxalign.contracts.scope import Site
from jaxalign.mesh.rounding import rounded
from jaxalign.mesh.rows import on_mesh, rows_here
from jaxalign.mesh.sharding import full_rows, param_shardings, replicated, row_sharding
from jaxalign.models.model import Model
from jaxalign.oracles.trees import Ids, batches, lines, packed
from jaxalign.training.rows import BRANCHES
from jaxalign.training.views import last_hidden
from jaxalign.types import Params, Rows

Head = Callable[[Model, Params, Float[Array, "n k d"], Int[Array, "n k w"]], Float[Array, "n k o"]]
"""What is said (fp32) of the last tokens' hidden states, and of what is wanted of each."""


@dataclass(frozen=True, eq=False)
class Reader:
    """A model and its head on a site, without weights: programs are compiled once for all scopes."""

    model: Model
    head: Head
    site: Site
    program: Any

    @classmethod
    def of(cls, model: Model, head: Head, site: Site) -> "Reader":
        """A reader of `head` of the model, compiled for where the judging happens."""
        there = model.on(site.mesh, site.rules)
        return cls(there, head, site, reading_program(there, head, site))

    @contextmanager
    def loaded(self) -> Iterator["Reading"]:
        """Ready to read; the weights are freed when the scope closes, whoever still holds them."""
        params = loaded(self.model, self.site)
        try:
            yield Reading(self, params)
        finally:
            for leaf in jax.tree.leaves(params):
                leaf.delete()


@dataclass(frozen=True, eq=False)
class Reading:
    """A reader with its weights."""

    reader: Reader
    params: Params

    def __call__(
        self, groups: Sequence[Sequence[Ids]], wanted: Int[np.ndarray, "k w"] | None = None
    ) -> Float[np.ndarray, "k o"]:
        """What the head says of each conversation of all groups, those of a group beginning alike. `wanted` is what it
        is asked of each. Conversations have 1 to the context's tokens."""
        site, count = self.reader.site, sum(map(len, groups))
        if wanted is None:
            wanted = np.zeros((count, 0), np.int32)
        made, stands_for = lines(groups, self.reader.model.config.context)
        rows = full_rows(site.mesh, min(site.rows, len(made)))
        here = rows_here(row_sharding(site.mesh), rows)  # of several processes each fills the rows of its own devices
        found: dict[int, np.ndarray] = {}
        for batch, columns in batches(made, rows):
            numbers = [[number for line in row for number in line.numbers] for row in batch]
            asked = np.zeros((rows, branches(numbers), wanted.shape[1]), np.int32)
            for row, own in enumerate(numbers):
                asked[row, : len(own)] = wanted[own]
            filled = packed(batch, here & (np.arange(rows) < len(batch)), columns)
            placed = on_mesh((filled, asked), row_sharding(site.mesh))
            said = np.asarray(self.reader.program(self.params, *placed))
            found |= {n: said[row, place] for row, own in enumerate(numbers) for place, n in enumerate(own)}
        return np.stack([found[number] for number in stands_for.tolist()])


def branches(rows: Sequence[Sequence[object]]) -> int:
    """Of rows that have so many: few numbers, so that few programs are compiled."""
    most = max(map(len, rows))
    return most if most <= BRANCHES else rounded(most, BRANCHES)


def loaded(model: Model, site: Site) -> Params:
    """The weights on the mesh, with matrices in the compute dtype alone."""
    shardings = param_shardings(site.mesh, site.rules, model.abstract(), model.axes)

    def place(path: tuple[str, ...]) -> Any:
        found = shardings
        for name in path:
            found = found[name]
        return found

    params = model.load(place)
    computed = model.computing(params)
    for stored, kept in zip(jax.tree.leaves(params), jax.tree.leaves(computed), strict=True):
        if stored.dtype != kept.dtype:
            stored.delete()  # now, and not when it is collected: both copies may not fit beside what comes next
    return computed


def reading_program(model: Model, head: Head, site: Site) -> Any:
    """(params, rows, wanted) → what `head` says of each branch's last token, jitted; the same on every process."""
    return jax.jit(partial(last_said, model, head), out_shardings=replicated(site.mesh), compiler_options=site.options)


def last_said(
    model: Model, head: Head, params: Params, rows: Rows, wanted: Int[Array, "n k w"]
) -> Float[Array, "n k o"]:
    """What `head` says of the last token of each of the k branches of rows."""
    return head(model, params, last_hidden(model, params, rows, wanted.shape[1]), wanted)
