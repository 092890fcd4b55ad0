"""Rollouts: m responses a prompt from a policy, by one jitted program of prefill and decode with a KV cache.

Prompts are prefilled once each and their cache shared out to the m samples. Rows advance in lockstep and the loop ends
when the last row has met an end-of-turn token or the length limit. Every row draws with its own key, folded from
(iteration, prompt, sample, token): what is sampled does not depend on how rows are batched. The recorded log-probs are
the policy's own, before the sampler's temperature and truncation: recomputing them by one forward pass over the
finished rows gives the same numbers.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray

from jaxalign.contracts.traced import check_sampler, drawn
from jaxalign.errors import DataError
from jaxalign.mesh.flags import Options
from jaxalign.mesh.rounding import rounded
from jaxalign.mesh.rows import on_mesh, own_rows
from jaxalign.mesh.sharding import full_rows, replicated, row_sharding
from jaxalign.models.model import Model
from jaxalign.ops.attention import Tree
from jaxalign.rollouts.samplers import Temperature
from jaxalign.types import Params, Prompt, Rollouts, Sampler, pytree

PROMPT_BUCKET = 16  # prompts are padded to a multiple of this many tokens: few shapes, little padding


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
    model: Model, params: Params, prompts: Int[Array, "b p"], lengths: Int[Array, " b"], capacity: int
) -> tuple[Float[Array, "b d"], Any]:
    """Hidden states of the last tokens of left-padded prompts, and a cache of `capacity` columns."""
    columns = jnp.arange(prompts.shape[1])[None, :]
    start = prompts.shape[1] - lengths[:, None]
    position = jnp.maximum(columns - start, 0)
    sight = Tree(jnp.where(columns >= start, 0, -1), jnp.zeros_like(position), position)
    return model.prefill(params, prompts, position, sight, capacity)


def keys_of_rows(keys: Key[Array, " b"], samples: int) -> Key[Array, " n"]:
    """One for each sample of each prompt."""
    return jax.vmap(lambda key: jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(samples)))(keys).reshape(-1)


def generate(
    model: Model,
    sampler: Sampler,
    stop: tuple[int, ...],
    samples: int,
    limit: int,
    params: Params,
    prompts: Int[Array, "b p"],
    lengths: Int[Array, " b"],
    keys: Key[Array, " b"],
) -> tuple[Int[Array, "b m t"], Int[Array, "b m"], Bool[Array, "b m"], Float[Array, "b m t"]]:
    """Tokens, lengths, finished and log-probs of `samples` responses of at most `limit` tokens to each prompt.

    A response ends with a token of `stop`. `prompts` are left-padded; `keys` are one a prompt. Tokens and log-probs
    beyond a response's length are 0.
    """
    count, width = prompts.shape
    hidden, cache = read_prompts(model, params, prompts, lengths, width + limit)

    share_out = partial(jnp.repeat, repeats=samples, axis=0)
    cache = jax.tree.map(share_out, cache)
    start = share_out(width - lengths)[:, None]
    row_keys = keys_of_rows(keys, samples)
    stops = jnp.asarray(stop, jnp.int32).reshape(-1)
    weights = model.unstacked(params)

    def draw(state: Decoding, hidden: Float[Array, "n d"]) -> Decoding:
        logits = model.logits(weights, hidden)
        step_keys = jax.vmap(lambda key: jax.random.fold_in(key, state.step))(row_keys)
        token = jnp.where(state.done, 0, drawn(sampler, logits, step_keys))
        chosen = jnp.take_along_axis(logits, token[:, None], axis=1)[:, 0]
        logp = jnp.where(state.done, 0.0, chosen - jax.nn.logsumexp(logits, axis=-1))
        return replace(
            state,
            step=state.step + 1,
            token=token,
            done=state.done | (token[:, None] == stops[None, :]).any(-1),
            tokens=state.tokens.at[:, state.step].set(token),
            logps=state.logps.at[:, state.step].set(logp),
            lengths=state.lengths + jnp.where(state.done, 0, 1),
        )

    def advance(state: Decoding) -> Decoding:
        index = width + state.step - 1  # the slot of the newest token
        slots = jnp.arange(width + limit)[None, :]
        hidden, cache = model.decode(
            weights, state.cache, state.token, index - start[:, 0], (slots >= start) & (slots <= index), index
        )
        return draw(replace(state, cache=cache), hidden)

    end = jax.lax.while_loop(
        lambda state: (state.step < limit) & ~state.done.all(),
        advance,
        draw(nothing_drawn(cache, count * samples, limit), share_out(hidden)),
    )
    table = (count, samples, limit)
    return (
        end.tokens.reshape(table),
        end.lengths.reshape(table[:2]),
        end.done.reshape(table[:2]),
        end.logps.reshape(table),
    )


@dataclass(frozen=True)
class Sample:
    """Samples of the policy: `samples` responses of at most `max_tokens` tokens to every prompt."""

    samples: int = 4
    """responses a prompt (m)"""
    max_tokens: int = 64
    """longest response, tokens, its end-of-turn token included"""
    sampler: Sampler = Temperature(1.0)
    """how the next token is drawn"""
    max_prompt_tokens: int | None = None
    """longest prompt, tokens; longer ones are refused. None: what the model's context leaves"""

    def problems(self) -> Iterable[str]:
        for name, value in (
            ("samples", self.samples),
            ("max_tokens", self.max_tokens),
        ):
            if value < 1:
                yield f"{name} must be at least 1, got {value}"
        if self.max_prompt_tokens is not None and self.max_prompt_tokens < 1:
            yield f"max_prompt_tokens must be at least 1 or None, got {self.max_prompt_tokens}"

    def on(self, model: Model, mesh: jax.sharding.Mesh, options: Options | None = None, rows: int = 64) -> "Roller":
        """Ready to roll out `model` on `mesh`, `rows` responses together: programs, compiled with `options`, are kept
        between calls."""
        return Roller(self, model, mesh, options, rows)

    def prompts_a_batch(self, rows: int, mesh: jax.sharding.Mesh) -> int:
        """Prompts decoded together when `rows` responses are: one at least, and a multiple of what rows are split
        over."""
        return full_rows(mesh, max(rows // self.samples, 1))

    def program(self, model: Model, mesh: jax.sharding.Mesh, options: Options | None) -> Any:
        """`generate`, jitted: (params, prompts, lengths, keys) → tokens, lengths, finished, log-probs."""
        return jax.jit(
            partial(generate, model, self.sampler, model.chat.stop, self.samples, self.max_tokens),
            out_shardings=row_sharding(mesh),
            compiler_options=options,
        )


@dataclass(frozen=True)
class Share:
    """What one process has of a batch of rollouts: those of the prompts with these numbers among all prompts."""

    numbers: Int[np.ndarray, " k"]
    rollouts: Rollouts


def covers(shares: Sequence[Share], numbers: Int[np.ndarray, " b"]) -> bool:
    """Whether the shares have each of these prompts once: shares of a batch that another mesh cut otherwise do not."""
    return sorted(number for share in shares for number in share.numbers.tolist()) == sorted(numbers.tolist())


Commit = Callable[[int, Int[np.ndarray, " b"], Callable[[], Share]], Sequence[Share]]
"""(batch, its prompts' numbers, make) → the shares of all processes; may keep what was made, and skip making what it
has kept."""


def alone(part: int, numbers: Int[np.ndarray, " b"], make: Callable[[], Share]) -> tuple[Share, ...]:
    """Keeps nothing; the only process has everything."""
    del part, numbers
    return (make(),)


class Roller:
    """Rolls out prompts in batches of similar length; each batch is committed by the caller as it comes.

    A batch is decoded by the devices of all processes together; each reads and decodes the texts of its own rows.
    """

    def __init__(self, spec: Sample, model: Model, mesh: jax.sharding.Mesh, options: Options | None, rows: int):
        self.spec, self._model, self._mesh = spec, model, mesh
        self._most = spec.prompts_a_batch(rows, mesh)
        check_sampler(spec.sampler, model.config.vocab)
        self._generate = spec.program(model, mesh, options)

    def check(self, prompts: Iterable[Prompt]) -> None:
        """DataError naming every prompt that is longer than allowed, or leaves its response no room in the context."""
        room = self._model.config.context - self.spec.max_tokens
        allowed = self.spec.max_prompt_tokens
        limit = room if allowed is None else min(room, allowed)
        long = [(p.id, n) for p in prompts if (n := len(self._model.chat.encode(p.messages, p.tool_list))) > limit]
        if long:
            listed = ", ".join(f"{id} ({n} tokens)" for id, n in long[:10]) + (" …" if len(long) > 10 else "")
            raise DataError(
                f"{len(long)} prompts are longer than {limit} tokens, "
                + (
                    f"the model's context of {self._model.config.context} less the {self.spec.max_tokens} tokens of a "
                    f"response: {listed}. "
                    if limit == room
                    else f"rollout.max_prompt_tokens: {listed}. "
                )
                + "Shorten or remove them"
            )

    def __call__(
        self,
        params: Params,
        prompts: tuple[Prompt, ...],
        key: PRNGKeyArray,
        commit: Commit = alone,
    ) -> Rollouts:
        """Rollouts of all prompts in their order."""
        encoded = [self._model.chat.encode(prompt.messages, prompt.tool_list) for prompt in prompts]
        by_length = sorted(range(len(prompts)), key=lambda index: len(encoded[index]))
        # Few prompts make a small batch: rows that only fill one up cost as much as those that are wanted.
        size = min(self._most, self.spec.prompts_a_batch(len(prompts) * self.spec.samples, self._mesh))
        batches = [np.array(by_length[start : start + size]) for start in range(0, len(prompts), size)]
        shares = [
            share
            for part, chosen in enumerate(batches)
            for share in commit(part, chosen, partial(self._roll, params, prompts, encoded, chosen, size, key))
        ]
        return _in_order(shares)

    def _roll(
        self,
        params: Params,
        prompts: tuple[Prompt, ...],
        encoded: list[list[int]],
        chosen: Int[np.ndarray, " k"],
        size: int,
        key: PRNGKeyArray,
    ) -> Share:
        width = rounded(max(len(encoded[index]) for index in chosen), PROMPT_BUCKET)
        padded = np.resize(chosen, size)  # a short last batch is filled up with copies, dropped below
        left = np.zeros((size, width), np.int32)
        right = np.zeros((size, width), np.int32)
        lengths = np.array([len(encoded[index]) for index in padded], np.int32)
        for row, index in enumerate(padded):
            left[row, width - lengths[row] :] = right[row, : lengths[row]] = encoded[index]
        keys = jax.vmap(partial(jax.random.fold_in, key))(padded)
        data = np.asarray(jax.random.key_data(keys))
        inputs = on_mesh((left, lengths, data), row_sharding(self._mesh))
        keys = jax.random.wrap_key_data(inputs[2], impl=jax.random.key_impl(key))
        own, out = own_rows(self._generate(params, *inputs[:2], keys))
        real = own < len(chosen)
        own = own[real]
        tokens, response_lengths, finished, logps = (array[real] for array in out)
        rollouts = Rollouts(
            prompts=tuple(prompts[index] for index in chosen[own]),
            texts=tuple(
                tuple(self._model.chat.decode(row[:length].tolist()) for row, length in zip(rows, ends, strict=True))
                for rows, ends in zip(tokens, response_lengths, strict=True)
            ),
            prompt_tokens=right[own],
            prompt_lengths=lengths[own],
            tokens=tokens,
            lengths=response_lengths,
            finished=finished,
            logps=logps,
            weights=np.full(response_lengths.shape, 1 / self.spec.samples, np.float32),
        )
        return Share(chosen[own], rollouts)


@dataclass(frozen=True)
class Enumerate:
    """Every one-token answer once, weighted by its probability: exact expectations for tabular policies."""

    def on(self, model: Model, mesh: jax.sharding.Mesh, options: Options | None = None, rows: int = 64) -> "Enumerator":
        """Ready to enumerate `model`'s answers."""
        del options, rows  # a table has one column for all answers: nothing to overlap, nothing to split
        return Enumerator(model, mesh)


class Enumerator:
    """Enumerates the answers of a policy whose responses are single tokens."""

    def __init__(self, model: Model, mesh: jax.sharding.Mesh):
        self._model = model
        self._probs = jax.jit(self._last_token, out_shardings=replicated(mesh))  # a table fits one device

    def check(self, prompts: Iterable[Prompt]) -> None:
        """Prompts are single tokens: nothing can be too long."""
        del prompts

    def __call__(
        self,
        params: Params,
        prompts: tuple[Prompt, ...],
        key: PRNGKeyArray,
        commit: Commit = alone,
    ) -> Rollouts:
        """Rollouts with m = v and weights π; nothing is drawn."""
        del key
        return _in_order(commit(0, np.arange(len(prompts)), partial(self._enumerate, params, prompts)))

    def _enumerate(self, params: Params, prompts: tuple[Prompt, ...]) -> Share:
        encoded = np.array([self._model.chat.encode(prompt.messages, prompt.tool_list) for prompt in prompts], np.int32)
        own, (logps,) = own_rows((self._probs(params, encoded),))
        count, answers = logps.shape
        names = tuple(self._model.chat.decode([token]) for token in range(answers))
        rollouts = Rollouts(
            prompts=tuple(prompts[index] for index in own),
            texts=(names,) * count,
            prompt_tokens=encoded[own],
            prompt_lengths=np.full(count, encoded.shape[1], np.int32),
            tokens=np.tile(np.arange(answers, dtype=np.int32)[None, :, None], (count, 1, 1)),
            lengths=np.ones((count, answers), np.int32),
            finished=np.ones((count, answers), bool),
            logps=logps[:, :, None],
            weights=np.exp(logps),
        )
        return Share(own, rollouts)

    def _last_token(self, params: Params, prompts: Int[Array, "b p"]) -> Float[Array, "b v"]:
        count, width = prompts.shape
        position = jnp.tile(jnp.arange(width)[None, :], (count, 1))
        mask = jnp.tile(jnp.tril(jnp.ones((width, width), bool))[None], (count, 1, 1))
        hidden, _ = self._model.prefill(params, prompts, position, mask, capacity=width)
        return jax.nn.log_softmax(self._model.logits(params, hidden), axis=-1)


def _in_order(shares: Sequence[Share]) -> Rollouts:
    """One Rollouts of all shares, in the prompts' order."""
    parts = [share.rollouts for share in shares]
    place = np.argsort(np.concatenate([share.numbers for share in shares]))

    def arrays(name: str) -> np.ndarray:
        found = [getattr(part, name) for part in parts]
        width = max(array.shape[-1] for array in found)
        if name == "prompt_tokens":
            found = [np.pad(array, ((0, 0), (0, width - array.shape[1]))) for array in found]
        return np.concatenate(found)[place]

    prompts = [prompt for part in parts for prompt in part.prompts]
    texts = [text for part in parts for text in part.texts]
    return Rollouts(
        prompts=tuple(prompts[index] for index in place),
        texts=tuple(texts[index] for index in place),
        prompt_tokens=arrays("prompt_tokens"),
        prompt_lengths=arrays("prompt_lengths"),
        tokens=arrays("tokens"),
        lengths=arrays("lengths"),
        finished=arrays("finished"),
        logps=arrays("logps"),
        weights=arrays("weights"),
    )
