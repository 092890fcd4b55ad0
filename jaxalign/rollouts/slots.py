"""Continuous batching: a row that has finished its answer takes the next one at once, whosever prompt it is of.

Where answers differ in length, rows of `lockstep` wait for the longest of their batch. Here they wait only at the end,
when no answer is left to take; then the rows that still draw are moved together into programs of half as many. Prompts
are read once each, some at a time, as places for them become free. What is drawn is the same, token by token. The
state on the devices is that of `pools`; this file decides who comes when, from what all processes know.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from jaxalign.mesh.flags import Options
from jaxalign.mesh.program import Program, Work
from jaxalign.mesh.rounding import rounded
from jaxalign.mesh.rows import on_mesh, own_rows
from jaxalign.mesh.sharding import replicated, row_sharding, row_shards
from jaxalign.models.cache import Cache, Kind
from jaxalign.models.speaker import Speaker
from jaxalign.rollouts.contract import Drawn, Task
from jaxalign.rollouts.keys import Keys, of_prompts
from jaxalign.rollouts.lockstep import PROMPT_BUCKET
from jaxalign.rollouts.pools import Pools, advanced, arrived, narrowed, rows_of, vacant, whole, with_rows
from jaxalign.types import Params

NOBODY = -1
"""Has a place in which no prompt is."""


@dataclass(frozen=True)
class Slots:
    """Rows are given the next answer as they finish one. Pays where answers end at different lengths."""

    halvings: int = 2
    """how often the rows are halved when no answer is left to take and half of them are idle; each is a program more"""
    kv_cache: Kind = "exact"
    """how keys and values are kept: as computed, or in eight bits ("int8"), which moves log-probs a little"""

    def problems(self) -> Iterable[str]:
        if self.halvings < 0:
            yield f"halvings must not be negative, got {self.halvings}"

    def open(
        self, task: Task, model: Speaker, mesh: jax.sharding.Mesh, options: Options | None, rows: int
    ) -> "SlotsDrawer":
        """About `rows` rows, as many on each device that rows are split over."""
        return SlotsDrawer(self, task, model.caching(self.kv_cache), mesh, options, rows)


@dataclass(frozen=True)
class Seating:
    """Sizes of one pool: its rows, its places for prompts, and how many prompts are read together."""

    rows: int
    places: int
    new: int

    @classmethod
    def of(cls, rows: int, samples: int) -> "Seating":
        """Places for three times as many prompts as rows go on from at least, or for one a row where that is less; and
        for those that are being read."""
        # A prompt keeps its place until the last of its answers ends, and of eight lengths with a long tail the longest
        # is some three times the mean.
        busy = -(-rows // samples)
        new = -(-busy // 2)
        return cls(rows, min(3 * busy, rows) + new, new)


class Programs:
    """What is compiled, for states of all sizes: shapes of their arrays differ, their places do not."""

    def __init__(self, task: Task, model: Speaker, mesh: jax.sharding.Mesh, options: Options | None, params: Params):
        pools = row_shards(mesh)
        self._vacant = partial(vacant, model, task, pools)
        smallest = jax.eval_shape(partial(self._vacant, 1, 1, 1), params)
        alone, layout = row_sharding(mesh), model.layout

        def place(node: Any) -> Any:
            return node.split(layout) if isinstance(node, Cache) and layout else jax.tree.map(lambda _: alone, node)

        self.places = jax.tree.map(place, smallest, is_leaf=lambda node: isinstance(node, Cache))

        def drawn(view: Params, state: Pools, waiting: Any, few: Any) -> Any:
            state, steps = advanced(model, task, view, state, waiting, few)
            return state, (steps, state.live, whole(state))

        def planned_drawn(params: Params, *rest: Any) -> Any:
            return drawn(model.unstacked(params), *rest)

        def planned_arrived(params: Params, *rest: Any) -> Any:
            return arrived(model, task, params, *rest), model.unstacked(params)

        def planned_narrowed(params: Params, state: Pools, chosen: Any) -> Any:
            return narrowed(rows_of(state), chosen), model.unstacked(params)

        jit = partial(jax.jit, compiler_options=options)
        told = (self.places, (replicated(mesh),) * 3)
        self.vacant = jit(self._vacant, static_argnums=(0, 1, 2), out_shardings=self.places)
        self.arrived = jit(partial(arrived, model, task), donate_argnums=1, out_shardings=self.places)
        self.unstacked = jit(model.unstacked)
        self.drawn = jit(drawn, donate_argnums=1, out_shardings=told)
        self.planned_drawn = jit(planned_drawn, donate_argnums=1, out_shardings=told)
        self.planned_arrived = jit(planned_arrived, donate_argnums=1, out_shardings=(self.places, None))
        """The same from parameters as they are trained, with what decoding wants of them beside: so a plan knows all
        shapes, and all that is held"""
        self.narrowed = jit(narrowed, out_shardings=rows_of(self.places))
        # what it does not read lies beside it all the same, and is counted
        self.planned_narrowed = jit(planned_narrowed, out_shardings=(rows_of(self.places), None), keep_unused=True)

    def state(self, seating: Seating, width: int, params: Params) -> Pools:
        """Shapes and places of a state."""
        sizes = (seating.places, seating.rows, width)
        shapes = jax.eval_shape(partial(self._vacant, *sizes), params)
        return jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes, self.places
        )


class SlotsDrawer:
    """Draws all that is wanted in one go, and gives prompts away as their last answers end."""

    def __init__(
        self, spec: Slots, task: Task, model: Speaker, mesh: jax.sharding.Mesh, options: Options | None, rows: int
    ):
        self.task, self.mesh, self.pools, self.halvings = task, mesh, row_shards(mesh), spec.halvings
        self._rows = max(-(-rows // self.pools), 1)
        self._made = partial(Programs, task, model, mesh, options)
        self._programs: Programs | None = None

    def __call__(
        self, params: Params, prompts: Sequence[Sequence[int]], wanted: Int[np.ndarray, " k"], keys: Keys
    ) -> Iterator[Drawn]:
        """A piece are the prompts that became whole while the devices drew without the host."""
        if len(wanted):
            # as wide as the longest of all, wanted or not: no prompt is computed otherwise for what else is wanted
            width = rounded(max(map(len, prompts)), PROMPT_BUCKET)
            drawing = _Drawing(self, self._compiled(params), params, prompts, wanted, width, keys)
            while drawing.busy:
                yield drawing.further()

    def programs(self, params: Params, prompt: int) -> tuple[Program, ...]:
        """Reading prompts, drawing as many tokens as an answer may have, and, unless rows are never halved, copying
        half of them: for a moment the copy lies beside all rows."""
        task, width, seating = self.task, rounded(prompt, PROMPT_BUCKET), self.seating(self._rows)
        compiled = self._compiled(params)
        state, place, new = compiled.state(seating, width, params), row_sharding(self.mesh), (self.pools, seating.new)

        def given(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

        read = [given((*new, width), jnp.int32), given(new, jnp.int32), given(new, state.keys.dtype)]
        ends = [given((self.pools,), jnp.int32), jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated(self.mesh))]
        rows, count = self.pools * seating.rows, self.pools * seating.new
        work = Work(
            count * task.samples,
            count * width,
            count,
            width,
            ("forward",),
            cached=rows,
            kept=rows * task.limit + self.pools * seating.places * width,
        )
        drawn = rows * task.limit
        drawing = replace(work, tokens=drawn, rows_tokens=drawn, scored=drawn, row=width + task.limit)
        found = (
            Program("rollout.prompts", compiled.planned_arrived, (params, state, *read, given(new, jnp.int32)), work),
            Program("rollout", compiled.planned_drawn, (params, state, *ends), drawing),
        )
        if not self._halves:
            return found
        left = -(-seating.rows // 2)
        copying = replace(work, tokens=self.pools * left, rows_tokens=0, scored=0)
        chosen = given((self.pools, left), jnp.int32)
        return *found, Program("rollout.halved", compiled.planned_narrowed, (params, state, chosen), copying)

    def calls(self, prompts: int) -> Mapping[str, int]:
        """As many as there are when every answer is as long as it may be."""
        seating = self.seating(self.rows_for(prompts))
        answers = prompts * self.task.samples
        return {
            "rollout.prompts": -(-prompts // (self.pools * seating.new)),
            "rollout": -(-answers // (self.pools * seating.rows)),
            **({"rollout.halved": self.halvings} if self._halves else {}),
        }

    @property
    def _halves(self) -> bool:
        """Whether rows are ever halved."""
        return self.halvings > 0 and self._rows > 1

    def seating(self, rows: int) -> Seating:
        """With so many rows in a pool."""
        return Seating.of(rows, self.task.samples)

    def rows_for(self, prompts: int) -> int:
        """Rows of a pool: all, or halved until few answers leave none of them idle."""
        rows, answers = self._rows, max(-(-prompts * self.task.samples // self.pools), 1)
        while rows >= 2 * answers:
            rows = -(-rows // 2)
        return rows

    def _compiled(self, params: Params) -> Programs:
        if self._programs is None:
            self._programs = self._made(params)
        return self._programs


class _Drawing:
    """One call: who is where, and who is next. All of it is the same in every process."""

    def __init__(
        self,
        drawer: SlotsDrawer,
        compiled: Programs,
        params: Params,
        prompts: Sequence[Sequence[int]],
        wanted: Int[np.ndarray, " k"],
        width: int,
        keys: Keys,
    ):
        self._compiled, self._params, self._prompts, self._keys = compiled, params, prompts, keys
        self._place, self._width, self._samples = row_sharding(drawer.mesh), width, drawer.task.samples
        self._seating = seating = drawer.seating(drawer.rows_for(len(wanted)))
        self._queues = [wanted[pool :: drawer.pools].tolist() for pool in range(drawer.pools)]
        self._occupants = np.full((drawer.pools, seating.places), NOBODY)
        self._state = compiled.vacant(seating.places, seating.rows, width, params)
        self._live = np.zeros((drawer.pools, seating.rows), bool)
        self._view = compiled.unstacked(params)
        self._halvings = drawer.halvings

    @property
    def busy(self) -> bool:
        """Whether anything is left to draw."""
        return any(self._queues) or bool((self._occupants != NOBODY).any())

    def further(self) -> Drawn:
        """The prompts that become whole next."""
        computed = 0
        while True:
            draw = self._filled()
            rows = self._live.shape[1]
            if not any(self._queues):
                while self._halvings and draw.max() <= rows // 2:
                    rows = self._halved()
            few = 0 if any(self._queues) or not self._halvings else rows // 2
            # a pool with prompts left, but no place for them, waits until another of its rows has nothing to draw
            waiting = [int(count) if queue else 0 for count, queue in zip(draw, self._queues, strict=True)]
            run = self._compiled.drawn(self._view, self._state, np.array(waiting, np.int32), np.int32(few))
            self._state, told = run
            steps, self._live, over = (np.asarray(each) for each in told)
            computed += int(steps) * rows * len(draw)
            ended = over & (self._occupants != NOBODY)
            if ended.any():
                return self._given_away(ended, computed)

    def _filled(self) -> Int[np.ndarray, " pool"]:
        """Reads prompts for idle rows, as long as there are places; how many rows draw then."""
        draw = self._live.sum(1)
        while True:
            comers = [self._comers(pool, int(count)) for pool, count in enumerate(draw)]
            if not sum(map(len, comers)):
                return draw
            self._read(comers)
            draw = np.minimum(self._live.shape[1], draw + [len(each) * self._samples for each in comers])

    def _comers(self, pool: int, draw: int) -> list[int]:
        """Places that the next prompts of a pool take now; none while all of its rows draw."""
        if draw == self._live.shape[1]:
            return []
        free = np.flatnonzero(self._occupants[pool] == NOBODY).tolist()
        return free[: min(self._seating.new, len(self._queues[pool]))]

    def _read(self, comers: Sequence[list[int]]) -> None:
        """One batch: of each pool as many prompts as it has places for, filled up with nobody."""
        shape = (len(comers), self._seating.new)
        tokens, lengths = np.zeros((*shape, self._width), np.int32), np.ones(shape, np.int32)
        places, numbers = np.full(shape, self._seating.places, np.int32), np.zeros(shape, np.int32)
        for pool, free in enumerate(comers):
            for at, place in enumerate(free):
                number = self._queues[pool].pop(0)
                ids = self._prompts[number]
                tokens[pool, at, self._width - len(ids) :], lengths[pool, at] = ids, len(ids)
                places[pool, at], numbers[pool, at] = place, number
                self._occupants[pool, place] = number
        keys = of_prompts(self._keys, numbers)
        data = np.asarray(jax.random.key_data(keys))
        tokens, lengths, data, places = on_mesh((tokens, lengths, data, places), self._place)
        keys = jax.random.wrap_key_data(data, impl=jax.random.key_impl(self._keys))
        self._state = self._compiled.arrived(self._params, self._state, tokens, lengths, keys, places)

    def _halved(self) -> int:
        """Leaves out half of the rows, none of which draws; how many are left."""
        rows = -(-self._live.shape[1] // 2)
        chosen = np.argsort(~self._live, axis=1, kind="stable")[:, :rows].astype(np.int32)
        fewer = self._compiled.narrowed(rows_of(self._state), on_mesh(chosen, self._place))
        self._state = with_rows(self._state, fewer)
        self._live = np.take_along_axis(self._live, chosen, axis=1)
        self._halvings -= 1
        return rows

    def _given_away(self, ended: Bool[np.ndarray, "pool e"], computed: int) -> Drawn:
        """What this process has of them; their places are free. `computed`: tokens behind the first ones that rows have
        drawn for them, and for nobody."""
        # All tables, of which a few rows are wanted: 8 bytes a token of every place, less than one step reads of keys
        # and values
        answers = self._state.answers
        own, out = own_rows((answers.tokens, answers.lengths, answers.finished, answers.logps))
        chosen = ended[own]
        tokens, lengths, finished, logps = (table[chosen] for table in out)
        numbers = self._occupants[own][chosen]
        self._occupants[ended] = NOBODY
        share = np.full(lengths.shape, 1 + computed / (ended.sum() * lengths.shape[1]), np.float32)
        return Drawn(numbers, tokens, lengths, finished, logps, {"row_steps": share})


EXAMPLE = Slots()
