"""Prefill and decode against one forward pass, every score of the vocabulary, on a prompt of the run."""

from collections.abc import Iterable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxalign.doctor.opened import Opened
from jaxalign.doctor.outcome import Outcome, judged
from jaxalign.doctor.tolerance import NATS_PER_TOKEN
from jaxalign.models.model import Cache, Model
from jaxalign.ops.attention import Together
from jaxalign.rollouts.lengths import encoded
from jaxalign.types import Params

DECODED = 4
"""Last tokens of the prompt that are decoded one by one."""


@dataclass(frozen=True)
class Decoding:
    """The prompt as it is, left-padded by one column, its last tokens read from the cache."""

    def __call__(self, opened: Opened) -> Iterable[Outcome]:
        model, allowed = opened.model, NATS_PER_TOKEN[opened.model.config.compute_dtype]
        chosen = min((encoded(model.chat, prompt) for prompt in opened.prompts), key=len)
        tokens = np.array([chosen[: model.config.context - 1]], np.int32)
        decoded = min(DECODED, tokens.shape[1] - 1)
        whole = jax.jit(lambda params: forward(model, params, jnp.asarray(tokens)))(opened.params)[0]
        split = jax.jit(lambda params: stepwise(model, params, jnp.asarray(tokens), decoded))(opened.params)[0]
        apart = np.abs(np.asarray(whole)[-decoded - 1 :] - np.asarray(split))
        # Where a token is all but impossible its log-prob is large, and so is its rounding; nothing is sampled there.
        likely = np.asarray(whole)[-decoded - 1 :] > np.log(1e-6)
        largest = float(apart[likely].max())
        fix = "the cache does not hold what the forward pass computes: a bug of the model's family"
        yield judged(
            "prefill + decode = one forward",
            {"tokens": tokens.shape[1], "decoded": decoded, "nats_max": largest, "allowed": allowed},
            [] if largest <= allowed else [fix],
        )


def forward(model: Model, params: Params, tokens: Int[Array, "1 s"]) -> Float[Array, "1 s v"]:
    """Log-probs of every next token (nats) by one pass."""
    position = jnp.arange(tokens.shape[1])[None]
    hidden = model.hidden(params, tokens, position, position[:, :, None] >= position[:, None, :])
    return jax.nn.log_softmax(model.logits(params, hidden), axis=-1)


def stepwise(model: Model, params: Params, tokens: Int[Array, "1 s"], decoded: int) -> Float[Array, "1 n v"]:
    """The same behind the last `decoded` + 1 tokens, with all but `decoded` prefilled and one column of padding."""
    start, count = 1, tokens.shape[1] - decoded
    columns = jnp.arange(start + count)
    position = jnp.maximum(columns - start, 0)[None]
    mask = ((columns[:, None] >= columns[None, :]) & (columns >= start)[None, :] & (columns >= start)[:, None])[None]
    padded = jnp.pad(tokens[:, :count], ((0, 0), (start, 0)))
    hidden, cache = model.prefill(params, padded, position, mask, rows=1, room=decoded)
    view, prompt = model.unstacked(params), jnp.array([count])

    def step(cache: Cache, said: Int[Array, ""]) -> tuple[Cache, Float[Array, "1 d"]]:
        token = jax.lax.dynamic_index_in_dim(tokens, count + said - 1, axis=1, keepdims=False)
        hidden, cache = model.decode(view, cache, token, Together(prompt, said))
        return cache, hidden

    _, rest = jax.lax.scan(step, cache, jnp.arange(1, decoded + 1))
    seen = jnp.concatenate([hidden[:, None], rest.swapaxes(0, 1)], axis=1)
    return jax.nn.log_softmax(model.logits(view, seen), axis=-1)


CHECK = Decoding()
