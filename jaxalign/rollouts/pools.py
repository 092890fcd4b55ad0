"""Rows that take the next sample as soon as they have finished one: the state of continuous batching, on the devices.

Prompts lie in pools, one for each device that rows are split over. A pool has places for prompts, whose keys and values
are kept once, and rows. A row draws one sample of a prompt at a time; when the sample ends, it takes the next one that
is left of its pool's prompts, in the order in which they arrived (iteration-level scheduling: Yu et al. 2022, Orca).
Every token is drawn with the key of its prompt, sample and number, as in `lockstep`: who sits where changes none.

A prompt's samples take their first tokens where it is read: what a row computes is always a sample's second token or a
later one. Letters besides those of `jaxalign.types`: e places of a pool.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxalign.models.cache import Cache
from jaxalign.models.speaker import Speaker
from jaxalign.ops.attention import Apart
from jaxalign.rollouts.contract import Task
from jaxalign.rollouts.lockstep import next_tokens, read_prompts
from jaxalign.types import Params, pytree


@pytree
class Answers:
    """What is drawn so far of the prompts in their places."""

    tokens: Int[Array, "pool e m t"]
    logps: Float[Array, "pool e m t"]
    lengths: Int[Array, "pool e m"]
    finished: Bool[Array, "pool e m"]
    """whether it ends with a token that ends a turn"""
    over: Bool[Array, "pool e m"]
    """whether nothing more is drawn: it is finished, or as long as it may be"""


@pytree
class Pools:
    """Prompts in their places, samples taken in order, and rows that draw them."""

    cache: Any
    prompt: Int[Array, "pool e"]
    """tokens of each prompt"""
    keys: Key[Array, "pool e"]
    order: Int[Array, "pool e"]
    """places in the order of arrival, a ring"""
    arrived: Int[Array, " pool"]
    """samples of all prompts that have arrived"""
    taken: Int[Array, " pool"]
    """how many of them rows have taken"""
    answers: Answers
    live: Bool[Array, "pool row"]
    """which rows draw; the others compute what nobody reads"""
    trunk: Int[Array, "pool row"]
    """place of the prompt that a row goes on from"""
    sample: Int[Array, "pool row"]
    said: Int[Array, "pool row"]
    """tokens drawn of the sample"""
    token: Int[Array, "pool row"]
    """the newest of them"""


def vacant(model: Speaker, task: Task, pools: int, places: int, rows: int, width: int, params: Params) -> Pools:
    """Without prompts: room for `places` prompts of `width` tokens, and `rows` rows, in each pool."""
    count = pools * places

    def read(params: Params) -> Any:
        blank = jnp.zeros((count, width), jnp.int32)
        return read_prompts(model, params, blank, jnp.ones(count, jnp.int32), pools * rows, task.limit)[1]

    cache = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(read, params))
    table, seats = (pools, places, task.samples), (pools, rows)
    zeros, no = partial(jnp.zeros, dtype=jnp.int32), partial(jnp.zeros, dtype=bool)
    answers = Answers(
        zeros((*table, task.limit)), jnp.zeros((*table, task.limit), jnp.float32), zeros(table), no(table), no(table)
    )
    return Pools(
        cache=cache,
        prompt=jnp.ones((pools, places), jnp.int32),
        keys=jnp.broadcast_to(jax.random.key(0), (pools, places)),
        order=zeros((pools, places)),
        arrived=zeros(pools),
        taken=zeros(pools),
        answers=answers,
        live=no(seats),
        trunk=zeros(seats),
        sample=zeros(seats),
        said=jnp.ones(seats, jnp.int32),
        token=zeros(seats),
    )


def arrived(
    model: Speaker,
    task: Task,
    params: Params,
    state: Pools,
    prompts: Int[Array, "pool new p"],
    lengths: Int[Array, "pool new"],
    keys: Key[Array, "pool new"],
    places: Int[Array, "pool new"],
) -> Pools:
    """With left-padded prompts read into `places`; beyond the last place are those that only fill a batch up, behind
    those that are real. Their samples' first tokens are drawn, and rows without a sample take one."""
    pools, new, _ = prompts.shape
    flat = (prompts.reshape(pools * new, -1), lengths.reshape(-1))
    hidden, made = read_prompts(model, params, *flat, pools * new, task.limit)
    logits = jnp.repeat(model.logits(params, hidden), task.samples, axis=0)
    each = jax.vmap(lambda key: jax.vmap(lambda sample: _key(key, sample, jnp.int32(0)))(jnp.arange(task.samples)))
    token, logp, stops = next_tokens(task, logits, each(keys.reshape(-1)).reshape(-1))

    def first(value: Array, into: Array) -> Array:
        """Into the first column of blank answers."""
        blank = jnp.zeros((pools * new * task.samples, task.limit), into.dtype)
        return blank.at[:, 0].set(value).reshape(pools, new, *into.shape[2:])

    old = state.answers
    begun = Answers(
        tokens=first(token, old.tokens),
        logps=first(logp, old.logps),
        lengths=jnp.ones((pools, new, task.samples), jnp.int32),
        finished=stops.reshape(pools, new, task.samples),
        over=(stops | (task.limit == 1)).reshape(pools, new, task.samples),
    )
    count = state.order.shape[1]
    real = places < count
    at = jnp.where(real, (state.arrived[:, None] // task.samples + jnp.arange(new)[None]) % count, count)
    put = jax.vmap(lambda table, place, value: table.at[place].set(value, mode="drop"))
    state = replace(
        state,
        cache=_caches(lambda kept, other: kept.holding(other, places), state.cache, made),
        prompt=put(state.prompt, places, lengths),
        keys=put(state.keys, places, keys),
        order=put(state.order, at, places),
        arrived=state.arrived + task.samples * real.sum(1, dtype=jnp.int32),
        answers=jax.tree.map(lambda table, value: put(table, places, value), old, begun),
    )
    return seated(state)


def seated(state: Pools) -> Pools:
    """Rows without a sample take one, as long as there are any."""
    samples, places = state.answers.over.shape[2], state.order.shape[1]
    place = state.taken[:, None] + jnp.cumsum(~state.live, axis=1, dtype=jnp.int32) - 1
    takes = ~state.live & (place < state.arrived[:, None])
    trunk = jnp.take_along_axis(state.order, place // samples % places, axis=1)
    sample = place % samples
    first = jax.vmap(lambda tokens, trunk, sample: tokens[trunk, sample, 0])(state.answers.tokens, trunk, sample)
    return replace(
        state,
        taken=state.taken + takes.sum(1, dtype=jnp.int32),
        live=state.live | takes,
        trunk=jnp.where(takes, trunk, state.trunk),
        sample=jnp.where(takes, sample, state.sample),
        said=jnp.where(takes, 1, state.said),
        token=jnp.where(takes, first, state.token),
    )


def advanced(
    model: Speaker, task: Task, view: Params, state: Pools, waiting: Int[Array, " pool"], few: Int[Array, ""]
) -> tuple[Pools, Int[Array, ""]]:
    """As many tokens further as can be without the host, at most `task.limit`, and how many that were. Ends when of
    some pool fewer than `waiting` rows draw, when of none more than `few` do, and when none does. `view` are parameters
    as decoding wants them."""

    def on(carry: tuple[Pools, Int[Array, ""]]) -> Bool[Array, ""]:
        draw = carry[0].live.sum(1)
        return (carry[1] < task.limit) & (draw >= waiting).all() & (draw.max() > few)

    def step(carry: tuple[Pools, Int[Array, ""]]) -> tuple[Pools, Int[Array, ""]]:
        return _step(model, task, view, carry[0]), carry[1] + 1

    return jax.lax.while_loop(on, step, (state, jnp.int32(0)))


SEATS = ("live", "trunk", "sample", "said", "token")
"""Columns of the state that have an entry a row, [pool row]."""


def rows_of(state: Pools) -> dict[str, Any]:
    """What of the state is of rows: seats, and what each has said, of every cache."""
    own = [cache.own for cache in jax.tree.leaves(state.cache, is_leaf=_is_cache)]
    return {"own": own, **{name: getattr(state, name) for name in SEATS}}


def with_rows(state: Pools, rows: dict[str, Any]) -> Pools:
    """The state with other rows."""
    caches, structure = jax.tree.flatten(state.cache, is_leaf=_is_cache)
    caches = [replace(cache, own=own) for cache, own in zip(caches, rows["own"], strict=True)]
    return replace(state, cache=jax.tree.unflatten(structure, caches), **{name: rows[name] for name in SEATS})


def narrowed(rows: dict[str, Any], chosen: Int[Array, "pool some"]) -> dict[str, Any]:
    """Some of each pool's rows."""

    def pick(table: Array) -> Array:
        """Of seats [pool row], or of what rows have said [n …]."""
        apart = table if table.ndim == 2 else table.reshape(len(chosen), -1, *table.shape[1:])
        found = jax.vmap(partial(jnp.take, axis=0))(apart, chosen)
        return found if table.ndim == 2 else found.reshape(-1, *table.shape[1:])

    found: dict[str, Any] = jax.tree.map(pick, rows)
    return found


def whole(state: Pools) -> Bool[Array, "pool e"]:
    """Places whose answers are over, and that no row has still to leave: a row that takes a sample which was over with
    its first token finds it so a step later."""
    places = state.order.shape[1]
    held = jnp.zeros(state.order.shape, bool)
    held = jax.vmap(lambda table, place: table.at[place].set(True, mode="drop"))(
        held, jnp.where(state.live, state.trunk, places)
    )
    return state.answers.over.all(-1) & ~held


def _step(model: Speaker, task: Task, view: Params, state: Pools) -> Pools:
    """Every row one token further."""
    shape, places = state.trunk.shape, state.order.shape[1]
    where = (state.trunk, state.sample)
    hidden, cache = model.decode(
        view, state.cache, state.token.reshape(-1), Apart(state.prompt.reshape(-1), state.trunk, state.said)
    )
    keys = jax.vmap(jax.vmap(_key))(jnp.take_along_axis(state.keys, state.trunk, axis=1), state.sample, state.said)
    token, logp, stops = (
        each.reshape(shape) for each in next_tokens(task, model.logits(view, hidden), keys.reshape(-1))
    )
    # a sample may be over with its first token, before any row has taken it
    over = _read(state.answers.over, *where)
    draws = state.live & ~over
    ends = stops | (state.said + 1 == task.limit)
    into = (jnp.where(draws, state.trunk, places), state.sample)  # beyond the last place: nobody's
    answers = Answers(
        tokens=_write(state.answers.tokens, token, *into, state.said),
        logps=_write(state.answers.logps, logp, *into, state.said),
        lengths=_write(state.answers.lengths, state.said + 1, *into),
        finished=_write(state.answers.finished, stops, *into),
        over=_write(state.answers.over, ends, *into),
    )
    return seated(
        replace(
            state,
            cache=cache,
            answers=answers,
            live=draws & ~ends,
            said=jnp.where(draws, state.said + 1, 1),
            token=token,
        )
    )


def _key(prompt: Key[Array, ""], sample: Int[Array, ""], number: Int[Array, ""]) -> Key[Array, ""]:
    """As `Task` says."""
    return jax.random.fold_in(jax.random.fold_in(prompt, sample), number)


def _read(table: Array, *where: Int[Array, "pool row"]) -> Array:
    return jax.vmap(lambda pool, *at: pool[at])(table, *where)


def _write(table: Array, value: Array, *where: Int[Array, "pool row"]) -> Array:
    return jax.vmap(lambda pool, new, *at: pool.at[at].set(new, mode="drop"))(table, value, *where)


def _caches(change: Callable[..., Cache], *caches: Any) -> Any:
    """`change` of each cache: a speaker has one, two, or (a table) none."""
    return jax.tree.map(change, *caches, is_leaf=_is_cache)


def _is_cache(node: Any) -> bool:
    return isinstance(node, Cache)
