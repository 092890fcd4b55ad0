"""Every answer that a policy can give, enumerated: exact expectations in place of samples."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxalign.errors import ConfigError, DataError
from jaxalign.mesh.flags import Options
from jaxalign.mesh.once import once
from jaxalign.mesh.program import Program
from jaxalign.mesh.rows import own_rows
from jaxalign.mesh.sharding import replicated
from jaxalign.models.speaker import Speaker
from jaxalign.rollouts.contract import AnchoredRollout, Bounds, Rollout
from jaxalign.rollouts.keys import Keys
from jaxalign.rollouts.lengths import encoded
from jaxalign.rollouts.shares import Share, picked
from jaxalign.types import Params, Prompt, Rollouts

MOST = 10_000
"""Answers to a prompt that are enumerated at most: all of them are compared with one another."""


@dataclass(frozen=True)
class Enumerate:
    """Every answer of `length` tokens once, weighted by its probability: exact expectations for small policies."""

    length: int = 1
    """tokens of every answer"""

    def problems(self) -> Iterable[str]:
        if self.length < 1:
            yield f"length must be at least 1, got {self.length}"

    def bounds(self, model: Speaker) -> Bounds:
        """As many answers as there are strings of the model's tokens."""
        vocab = model.config.vocab
        return Bounds(vocab**self.length, model.config.context - self.length, self.length, vocab)

    def unpaired(self) -> Iterable[str]:
        """Answers are all different."""
        return ()

    def on(
        self, model: Speaker, mesh: jax.sharding.Mesh, options: Options | None = None, rows: int = 64
    ) -> "Enumerator":
        """Ready to enumerate `model`'s answers. ConfigError where they are too many, or of different lengths."""
        del options, rows  # small programs: nothing to overlap, nothing to split
        bounds = self.bounds(model)
        if bounds.samples > MOST:
            raise ConfigError(
                f"rollout Enumerate: {bounds.vocab} tokens make {bounds.samples} answers of {self.length}, more than "
                f"{MOST}: sample answers instead"
            )
        if self.length > 1 and model.chat.stop:
            raise ConfigError("rollout Enumerate: answers of this model end by a token, not at one length")
        return Enumerator(model, mesh, bounds)


class Enumerator:
    """Enumerates the answers of a policy whose responses are all of one length.

    Answers that begin alike share what is read: a row for each string of all tokens but the last.
    """

    def __init__(self, model: Speaker, mesh: jax.sharding.Mesh, bounds: Bounds):
        self.bounds, self._model = bounds, model
        self._strings = strings_of(bounds)
        self._logps = enumerating(model, mesh, bounds)

    def check(self, prompts: Iterable[Prompt]) -> None:
        """DataError unless all prompts are of one length: they are read together, without padding."""
        lengths = {len(encoded(self._model.chat, prompt)) for prompt in prompts}
        if len(lengths) > 1:
            raise DataError(
                f"answers are enumerated to prompts of one length, these have {min(lengths)} to {max(lengths)} tokens: "
                "sample answers instead"
            )

    def __call__(
        self, params: Params, prompts: Sequence[Prompt], wanted: Int[np.ndarray, " k"], keys: Keys
    ) -> Iterator[Share]:
        """One piece of all prompts, with weights π; nothing is drawn."""
        del keys
        if len(wanted):
            own, rollouts = self._enumerate(params, prompts)
            here = np.isin(own, wanted)
            yield Share(own[here], picked(rollouts, here))

    def programs(self, params: Params, prompt: int) -> tuple[Program, ...]:
        """None worth a plan."""
        del params, prompt
        return ()

    def calls(self, prompts: int) -> Mapping[str, int]:
        """None."""
        del prompts
        return {}

    def _enumerate(self, params: Params, prompts: Sequence[Prompt]) -> tuple[Int[np.ndarray, " b"], Rollouts]:
        """Numbers of the prompts that this process reads, and every answer to them."""
        ids = np.array([encoded(self._model.chat, prompt) for prompt in prompts], np.int32)
        own, (logps,) = own_rows((self._logps(params, ids),))
        count, answers, length = logps.shape
        names = tuple(self._model.chat.decode(tokens.tolist()) for tokens in self._strings)
        return own, Rollouts(
            prompts=tuple(prompts[index] for index in own),
            texts=(names,) * count,
            prompt_tokens=ids[own],
            prompt_lengths=np.full(count, ids.shape[1], np.int32),
            tokens=np.tile(self._strings[None], (count, 1, 1)),
            lengths=np.full((count, answers), length, np.int32),
            finished=np.ones((count, answers), bool),
            logps=logps,
            weights=np.exp(logps.sum(-1)),
        )


def strings_of(bounds: Bounds) -> Int[np.ndarray, "m t"]:
    """Tokens of every answer; the last ones change fastest."""
    return np.array(list(itertools.product(range(bounds.vocab), repeat=bounds.response)), np.int32)


@once
def enumerating(model: Speaker, mesh: jax.sharding.Mesh, bounds: Bounds) -> Any:
    """(parameters, prompts [b p]) → log-probs of every token of every answer [b m t], jitted; small enough for one
    device."""
    strings, vocab, length = strings_of(bounds), bounds.vocab, bounds.response

    def every_token(params: Params, prompts: Int[Array, "b p"]) -> Float[Array, "b m t"]:
        count, width = prompts.shape
        begun = strings[::vocab, :-1]  # without their last tokens
        rows = jnp.concatenate([jnp.repeat(prompts, len(begun), axis=0), jnp.tile(begun, (count, 1))], axis=1)
        position = jnp.tile(jnp.arange(rows.shape[1])[None, :], (len(rows), 1))
        mask = jnp.tile(jnp.tril(jnp.ones((rows.shape[1],) * 2, bool))[None], (len(rows), 1, 1))
        hidden = model.hidden(params, rows, position, mask)[:, width - 1 :]
        following = jax.nn.log_softmax(model.logits(params, hidden), axis=-1)
        by_string = jnp.repeat(following, vocab, axis=0).reshape(count, len(strings), length, vocab)
        return jnp.take_along_axis(by_string, jnp.asarray(strings)[None, :, :, None], axis=-1)[..., 0]

    return jax.jit(every_token, out_shardings=replicated(mesh))


def listed(rollout: Rollout) -> bool:
    """Whether every answer is there once, weighted by its probability."""
    return isinstance(rollout.rollout if isinstance(rollout, AnchoredRollout) else rollout, Enumerate)


def enumerated(rollouts: Rollouts) -> Bool[np.ndarray, " b"]:
    """Prompts whose answers are all that the policy says, weighted by its law: different ones, whose probabilities sum
    to 1 and are their weights. Of few answers that there are, samples may be each one, once, and are no law."""
    different = np.array([len(set(texts)) == len(texts) for texts in rollouts.texts], bool)
    law = np.exp(rollouts.logps.sum(-1, dtype=np.float64))
    weighted = np.abs(rollouts.weights - law).sum(-1) < 1e-4
    return np.asarray(different & weighted & (np.abs(law.sum(-1) - 1.0) < 1e-4))


EXAMPLE = Enumerate()
