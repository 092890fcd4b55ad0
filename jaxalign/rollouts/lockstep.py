"""Decoding in lockstep: one jitted program of prefill and decode with a KV cache, for batches of similar length.

Prompts are prefilled once each, and their m samples read the same keys and values. Rows advance in lockstep and the
loop ends when the last row has met an end-of-turn token or the length limit. Every row draws with its own key, folded
from (iteration, prompt, sample, token): what is sampled does not depend on how rows are batched. The recorded log-probs
are the policy's own, before the sampler's temperature and truncation: recomputing them by one forward pass over the
finished rows gives the same numbers.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jaxalign.contracts.traced import drawn
from jaxalign.mesh.flags import Options
from jaxalign.mesh.once import once
from jaxalign.mesh.program import Program, Work
from jaxalign.mesh.rounding import rounded
from jaxalign.mesh.rows import on_mesh, own_rows
from jaxalign.mesh.sharding import full_rows, row_sharding
from jaxalign.models.cache import Kind
from jaxalign.models.speaker import Speaker
from jaxalign.ops.attention import Together, Tree
from jaxalign.rollouts.contract import Drawn, Task
from jaxalign.rollouts.keys import Keys, of_prompts
from jaxalign.types import Params, pytree

PROMPT_BUCKET = 16
"""Prompts are padded to a multiple of so many tokens: few shapes, little padding."""


@pytree
class Decoding:
    """State of the token loop: i tokens drawn of each of n rows; `token` is the newest, not yet in the cache."""

    step: Int[Array, ""]
    cache: Any
    token: Int[Array, " n"]
    done: Bool[Array, " n"]
    tokens: Int[Array, "n t"]
    logps: Float[Array, "n t"]
    lengths: Int[Array, " n"]


def nothing_drawn(cache: Any, rows: int, limit: int) -> Decoding:
    """The state of `rows` rows before their first token."""
    return Decoding(
        step=jnp.zeros((), jnp.int32),
        cache=cache,
        token=jnp.zeros(rows, jnp.int32),
        done=jnp.zeros(rows, bool),
        tokens=jnp.zeros((rows, limit), jnp.int32),
        logps=jnp.zeros((rows, limit), jnp.float32),
        lengths=jnp.zeros(rows, jnp.int32),
    )


def read_prompts(
    model: Speaker, params: Params, prompts: Int[Array, "b p"], lengths: Int[Array, " b"], rows: int, room: int
) -> tuple[Float[Array, "b d"], Any]:
    """Hidden states of the last tokens of left-padded prompts, and a cache for `rows` rows of `room` tokens."""
    columns = jnp.arange(prompts.shape[1])[None, :]
    start = prompts.shape[1] - lengths[:, None]
    position = jnp.maximum(columns - start, 0)
    sight = Tree(jnp.where(columns >= start, 0, -1), jnp.zeros_like(position), position)
    return model.prefill(params, prompts, position, sight, rows, room)


def keys_of_rows(keys: Key[Array, " b"], samples: int) -> Key[Array, " n"]:
    """One for each sample of each prompt."""
    return jax.vmap(lambda key: jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(samples)))(keys).reshape(-1)


def next_tokens(
    task: Task, logits: Float[Array, "n v"], keys: Key[Array, " n"]
) -> tuple[Int[Array, " n"], Float[Array, " n"], Bool[Array, " n"]]:
    """Tokens, their log-probs under the policy as it is, whatever the sampler has made of its logits, and which of them
    end a turn."""
    token = drawn(task.sampler, logits, keys)
    chosen = jnp.take_along_axis(logits, token[:, None], axis=1)[:, 0]
    stops = jnp.asarray(task.stop, jnp.int32).reshape(-1)
    return token, chosen - jax.nn.logsumexp(logits, axis=-1), (token[:, None] == stops[None, :]).any(-1)


def generate(
    model: Speaker,
    task: Task,
    params: Params,
    prompts: Int[Array, "b p"],
    lengths: Int[Array, " b"],
    keys: Key[Array, " b"],
) -> tuple[Int[Array, "b m t"], Int[Array, "b m"], Bool[Array, "b m"], Float[Array, "b m t"]]:
    """Tokens, lengths, finished and log-probs of the responses that are asked for.

    `prompts` are left-padded; `keys` are one a prompt. Tokens and log-probs beyond a response's length are 0.
    """
    count, samples, limit = prompts.shape[0], task.samples, task.limit
    hidden, cache = read_prompts(model, params, prompts, lengths, count * samples, limit)
    row_keys = keys_of_rows(keys, samples)
    # outside the loop, so that matrices are cast and gathered once a batch and not once a token
    weights = model.unstacked(params)

    def draw(state: Decoding, hidden: Float[Array, "n d"]) -> Decoding:
        logits = model.logits(weights, hidden)
        step_keys = jax.vmap(lambda key: jax.random.fold_in(key, state.step))(row_keys)
        token, logp, stops = next_tokens(task, logits, step_keys)
        token, logp = jnp.where(state.done, 0, token), jnp.where(state.done, 0.0, logp)
        return replace(
            state,
            step=state.step + 1,
            token=token,
            done=state.done | stops,
            tokens=state.tokens.at[:, state.step].set(token),
            logps=state.logps.at[:, state.step].set(logp),
            lengths=state.lengths + jnp.where(state.done, 0, 1),
        )

    def advance(state: Decoding) -> Decoding:
        hidden, cache = model.decode(weights, state.cache, state.token, Together(lengths, state.step))
        return draw(replace(state, cache=cache), hidden)

    # the first token is drawn before the loop: the prefill has read all that it depends on
    end = jax.lax.while_loop(
        lambda state: (state.step < limit) & ~state.done.all(),
        advance,
        draw(nothing_drawn(cache, count * samples, limit), jnp.repeat(hidden, samples, axis=0)),
    )
    tokens, logps = (table.reshape(count, samples, limit) for table in (end.tokens, end.logps))
    lengths, finished = (column.reshape(count, samples) for column in (end.lengths, end.done))
    return tokens, lengths, finished, logps


@once
def generating(model: Speaker, task: Task, mesh: jax.sharding.Mesh, options: Options | None) -> Any:
    """`generate`, jitted; each process gets its own rows."""
    return jax.jit(partial(generate, model, task), out_shardings=row_sharding(mesh), compiler_options=options)


@dataclass(frozen=True)
class Lockstep:
    """Prompts in batches of similar length; the rows of a batch are decoded together until the last is finished."""

    kv_cache: Kind = "exact"
    """how keys and values are kept: as computed, or in eight bits ("int8"), which moves log-probs a little"""

    def open(
        self, task: Task, model: Speaker, mesh: jax.sharding.Mesh, options: Options | None, rows: int
    ) -> "LockstepDrawer":
        """Batches of about `rows` responses."""
        return LockstepDrawer(task, model.caching(self.kv_cache), mesh, options, rows)


class LockstepDrawer:
    """Draws batch by batch. A batch is decoded by the devices of all processes together; each reads its own rows."""

    def __init__(self, task: Task, model: Speaker, mesh: jax.sharding.Mesh, options: Options | None, rows: int):
        self._task, self._mesh = task, mesh
        self._most = self._prompts_a_batch(rows)
        self._generate = generating(model, task, mesh, options)

    def __call__(
        self, params: Params, prompts: Sequence[Sequence[int]], wanted: Int[np.ndarray, " k"], keys: Keys
    ) -> Iterator[Drawn]:
        """A piece is a batch; those that nothing is wanted of are left out, and the others are what they would be."""
        by_length = np.array(sorted(range(len(prompts)), key=lambda number: len(prompts[number])))
        size = self._size(len(prompts))
        for start in range(0, len(prompts), size):
            numbers = by_length[start : start + size]
            if np.isin(numbers, wanted).any():
                yield self._draw(params, prompts, numbers, wanted, size, keys)

    def programs(self, params: Params, prompt: int) -> tuple[Program, ...]:
        """The largest batch, as wide as its longest prompt."""
        task, place, count, width = self._task, row_sharding(self._mesh), self._most, rounded(prompt, PROMPT_BUCKET)
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), count))
        inputs = (
            jax.ShapeDtypeStruct((count, width), jnp.int32, sharding=place),
            jax.ShapeDtypeStruct((count,), jnp.int32, sharding=place),
            jax.ShapeDtypeStruct(keys.shape, keys.dtype, sharding=place),
        )
        rows = count * task.samples
        drawn = rows * task.limit
        read = drawn + count * width  # a prompt once, whatever its samples
        work = Work(drawn, read, drawn, width + task.limit, ("forward",), cached=rows, kept=read)
        return (Program("rollout", self._generate, (params, *inputs), work),)

    def calls(self, prompts: int) -> Mapping[str, int]:
        """One a batch."""
        return {"rollout": -(-prompts // self._size(prompts))}

    def _prompts_a_batch(self, rows: int) -> int:
        """Prompts decoded together when about `rows` responses are: one at least, and as many on all devices."""
        return full_rows(self._mesh, max(rows // self._task.samples, 1))

    def _size(self, prompts: int) -> int:
        """Few prompts make a small batch: rows that only fill one up cost as much as those that are wanted."""
        return min(self._most, self._prompts_a_batch(prompts * self._task.samples))

    def _draw(
        self,
        params: Params,
        prompts: Sequence[Sequence[int]],
        numbers: Int[np.ndarray, " k"],
        wanted: Int[np.ndarray, " w"],
        size: int,
        keys: Keys,
    ) -> Drawn:
        padded = np.resize(numbers, size)  # a short last batch is filled up with copies, dropped below
        lengths = np.array([len(prompts[number]) for number in padded], np.int32)
        left = np.zeros((size, rounded(int(np.max(lengths)), PROMPT_BUCKET)), np.int32)
        for row, number in enumerate(padded):
            left[row, left.shape[1] - lengths[row] :] = prompts[number]
        own_keys = of_prompts(keys, padded)
        data = np.asarray(jax.random.key_data(own_keys))
        inputs = on_mesh((left, lengths, data), row_sharding(self._mesh))
        placed = jax.random.wrap_key_data(inputs[2], impl=jax.random.key_impl(keys))
        own, out = own_rows(self._generate(params, *inputs[:2], placed))
        real = (own < len(numbers)) & np.isin(padded[own], wanted)
        tokens, lengths, finished, logps = (column[real] for column in out)
        return Drawn(numbers[own[real]], tokens, lengths, finished, logps)


EXAMPLE = Lockstep()
