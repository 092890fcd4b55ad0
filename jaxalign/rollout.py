"""Rollouts: m responses a prompt from a policy, by one jitted program of prefill and decode with a KV cache.

Prompts are prefilled once each and their cache shared out to the m samples. Rows advance in lockstep and the loop ends
when the last row has met an end-of-turn token or the length limit. Every row draws with its own key, folded from
(iteration, prompt, sample, token): what is sampled does not depend on how rows are batched. The recorded log-probs are
the policy's own, before the sampler's temperature and truncation: recomputing them by one forward pass over the
finished rows gives the same numbers.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray

from jaxalign.errors import DataError
from jaxalign.models.model import Model
from jaxalign.samplers import Temperature
from jaxalign.sharding import row_sharding, row_shards
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
    columns = jnp.arange(width)[None, :]
    real = columns >= width - lengths[:, None]
    position = jnp.maximum(columns - (width - lengths[:, None]), 0)
    causal = (columns[:, :, None] >= columns[:, None, :]) & real[:, None, :] & real[:, :, None]
    hidden, cache = model.prefill(params, prompts, position, causal, capacity=width + limit)

    def share_out(leaf: Array) -> Array:
        return jnp.repeat(leaf, samples, axis=0)

    cache = jax.tree.map(share_out, cache)
    start = share_out(width - lengths)[:, None]
    row_keys = jax.vmap(lambda key: jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(samples)))(keys).reshape(-1)
    stops = jnp.asarray(stop, jnp.int32).reshape(-1)
    rows = count * samples
    weights = model.unstacked(params)

    def draw(state: Decoding, hidden: Float[Array, "n d"]) -> Decoding:
        logits = model.logits(weights, hidden)
        step_keys = jax.vmap(lambda key: jax.random.fold_in(key, state.step))(row_keys)
        token = jnp.where(state.done, 0, sampler(logits, step_keys))
        chosen = jnp.take_along_axis(logits, token[:, None], axis=1)[:, 0]
        logp = jnp.where(state.done, 0.0, chosen - jax.nn.logsumexp(logits, axis=-1))
        return Decoding(
            step=state.step + 1,
            cache=state.cache,
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
        return draw(
            Decoding(state.step, cache, state.token, state.done, state.tokens, state.logps, state.lengths), hidden
        )

    begin = Decoding(
        step=jnp.zeros((), jnp.int32),
        cache=cache,
        token=jnp.zeros(rows, jnp.int32),
        done=jnp.zeros(rows, bool),
        tokens=jnp.zeros((rows, limit), jnp.int32),
        logps=jnp.zeros((rows, limit), jnp.float32),
        lengths=jnp.zeros(rows, jnp.int32),
    )
    end = jax.lax.while_loop(
        lambda state: (state.step < limit) & ~state.done.all(), advance, draw(begin, share_out(hidden))
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
    batch_size: int = 8
    """prompts decoded together, over all devices; decoding holds batch_size · samples rows"""

    def problems(self) -> Iterable[str]:
        for name, value in (
            ("samples", self.samples),
            ("max_tokens", self.max_tokens),
            ("batch_size", self.batch_size),
        ):
            if value < 1:
                yield f"{name} must be at least 1, got {value}"

    def on(self, model: Model, mesh: jax.sharding.Mesh) -> "Roller":
        """Ready to roll out `model` on `mesh`: compiled programs are kept between calls."""
        return Roller(self, model, mesh)


class Roller:
    """Rolls out prompts in batches of similar length; each batch is committed by the caller as it comes."""

    def __init__(self, spec: Sample, model: Model, mesh: jax.sharding.Mesh):
        self.spec, self._model, self._mesh = spec, model, mesh
        self._size = -(-spec.batch_size // row_shards(mesh)) * row_shards(mesh)
        self._generate = jax.jit(partial(generate, model, spec.sampler, model.chat.stop, spec.samples, spec.max_tokens))

    def check(self, prompts: Iterable[Prompt]) -> None:
        """DataError naming every prompt that leaves no room for its response in the model's context."""
        limit = self._model.config.context - self.spec.max_tokens
        long = [(p.id, n) for p in prompts if (n := len(self._model.chat.encode(p.messages, p.tool_list))) > limit]
        if long:
            listed = ", ".join(f"{id} ({n} tokens)" for id, n in long[:10]) + (" …" if len(long) > 10 else "")
            raise DataError(
                f"{len(long)} prompts are longer than {limit} tokens, the model's context of "
                f"{self._model.config.context} less the {self.spec.max_tokens} tokens of a response: {listed}. "
                "Shorten or remove them"
            )

    def __call__(
        self,
        params: Params,
        prompts: tuple[Prompt, ...],
        key: PRNGKeyArray,
        commit: Callable[[int, Callable[[], Rollouts]], Rollouts] = lambda part, make: make(),
    ) -> Rollouts:
        """Rollouts of all prompts in their order. `commit(part, make)` may keep a batch's result and skip making it."""
        encoded = [self._model.chat.encode(prompt.messages, prompt.tool_list) for prompt in prompts]
        by_length = sorted(range(len(prompts)), key=lambda index: len(encoded[index]))
        batches = [by_length[start : start + self._size] for start in range(0, len(prompts), self._size)]
        parts = [
            commit(part, partial(self._roll, params, prompts, encoded, np.array(chosen), key))
            for part, chosen in enumerate(batches)
        ]
        return _in_order(parts, np.array(by_length))

    def _roll(
        self,
        params: Params,
        prompts: tuple[Prompt, ...],
        encoded: list[list[int]],
        chosen: Int[np.ndarray, " k"],
        key: PRNGKeyArray,
    ) -> Rollouts:
        width = -(-max(len(encoded[index]) for index in chosen) // PROMPT_BUCKET) * PROMPT_BUCKET
        padded = np.resize(chosen, self._size)  # a short last batch is filled up with copies, dropped below
        left = np.zeros((self._size, width), np.int32)
        right = np.zeros((self._size, width), np.int32)
        lengths = np.array([len(encoded[index]) for index in padded], np.int32)
        for row, index in enumerate(padded):
            left[row, width - lengths[row] :] = right[row, : lengths[row]] = encoded[index]
        keys = jax.vmap(partial(jax.random.fold_in, key))(padded)
        inputs = jax.device_put((left, lengths, keys), row_sharding(self._mesh))
        out = [np.asarray(array)[: len(chosen)] for array in self._generate(params, *inputs)]
        tokens, response_lengths, finished, logps = out
        return Rollouts(
            prompts=tuple(prompts[index] for index in chosen),
            texts=tuple(
                tuple(self._model.chat.decode(row[:length].tolist()) for row, length in zip(rows, ends, strict=True))
                for rows, ends in zip(tokens, response_lengths, strict=True)
            ),
            prompt_tokens=right[: len(chosen)],
            prompt_lengths=lengths[: len(chosen)],
            tokens=tokens,
            lengths=response_lengths,
            finished=finished,
            logps=logps,
            weights=np.full(response_lengths.shape, 1 / self.spec.samples, np.float32),
        )


@dataclass(frozen=True)
class Enumerate:
    """Every one-token answer once, weighted by its probability: exact expectations for tabular policies."""

    def on(self, model: Model, mesh: jax.sharding.Mesh) -> "Enumerator":
        """Ready to enumerate `model`'s answers."""
        del mesh  # a table fits one device
        return Enumerator(model)


class Enumerator:
    """Enumerates the answers of a policy whose responses are single tokens."""

    def __init__(self, model: Model):
        self._model = model
        self._probs = jax.jit(self._last_token)

    def check(self, prompts: Iterable[Prompt]) -> None:
        """Prompts are single tokens: nothing can be too long."""
        del prompts

    def __call__(
        self,
        params: Params,
        prompts: tuple[Prompt, ...],
        key: PRNGKeyArray,
        commit: Callable[[int, Callable[[], Rollouts]], Rollouts] = lambda part, make: make(),
    ) -> Rollouts:
        """Rollouts with m = v and weights π; nothing is drawn."""
        del key
        return commit(0, partial(self._enumerate, params, prompts))

    def _enumerate(self, params: Params, prompts: tuple[Prompt, ...]) -> Rollouts:
        encoded = np.array([self._model.chat.encode(prompt.messages, prompt.tool_list) for prompt in prompts], np.int32)
        logps = np.asarray(self._probs(params, encoded))
        count, answers = logps.shape
        names = tuple(self._model.chat.decode([token]) for token in range(answers))
        return Rollouts(
            prompts=prompts,
            texts=(names,) * count,
            prompt_tokens=encoded,
            prompt_lengths=np.full(count, encoded.shape[1], np.int32),
            tokens=np.tile(np.arange(answers, dtype=np.int32)[None, :, None], (count, 1, 1)),
            lengths=np.ones((count, answers), np.int32),
            finished=np.ones((count, answers), bool),
            logps=logps[:, :, None],
            weights=np.exp(logps),
        )

    def _last_token(self, params: Params, prompts: Int[Array, "b p"]) -> Float[Array, "b v"]:
        count, width = prompts.shape
        position = jnp.tile(jnp.arange(width)[None, :], (count, 1))
        mask = jnp.tile(jnp.tril(jnp.ones((width, width), bool))[None], (count, 1, 1))
        hidden, _ = self._model.prefill(params, prompts, position, mask, capacity=width)
        return jax.nn.log_softmax(self._model.logits(params, hidden), axis=-1)


def _in_order(parts: list[Rollouts], order: Int[np.ndarray, " b"]) -> Rollouts:
    """One Rollouts of all parts, whose concatenation is in `order`, back in the prompts' order."""
    place = np.argsort(order)

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
