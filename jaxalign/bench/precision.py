"""Answers drawn in fewer bits, by SmolLM2-135M: how far, in nats, what draws them is from the policy in fp32.

Each engine draws its own answers to the same held-out prompts, at temperature 1, and says their log-probs as it
computes them; one pass in fp32 over the finished answers says the policy's. The mean difference of an answer's two sums
estimates KL(what draws ‖ the policy), nats an answer; its error is over answers. fp32 with an exact cache is the
control.
"""

import argparse
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxalign.bench.rollout import drawn, opened
from jaxalign.config.numbers import Whole
from jaxalign.data.prompts import BuiltinPrompts
from jaxalign.data.prompts import opened as opened_prompts
from jaxalign.models.model import Model
from jaxalign.models.pretrained import SmolLM2
from jaxalign.rollouts.contract import Drawn, Task
from jaxalign.rollouts.lengths import encoded
from jaxalign.rollouts.lockstep import Lockstep
from jaxalign.rollouts.samplers import Temperature
from jaxalign.types import Params

HELP = "what answers drawn in fewer bits are off by, in nats"

SIDES = {
    "fp32": Lockstep(),
    "fp32, int8 cache": Lockstep("int8"),
    "bf16": Lockstep(),
    "bf16, int8 cache": Lockstep("int8"),
}
"""What they are called → how keys and values are kept; the first word is what matrices are multiplied in."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sizes; the defaults take minutes on two cores."""
    parser.add_argument("--prompts", type=Whole(), default=16, help="held-out prompts (default 16)")
    parser.add_argument("--samples", type=Whole(), default=4, help="responses a prompt (default 4)")
    parser.add_argument("--response-tokens", type=Whole(), default=48, help="tokens of a response at most (default 48)")
    parser.add_argument("--rows", type=Whole(), default=64, help="responses together (default 64)")


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows: what draws, bytes of cache for each token, nats by which log-probs differ."""
    exact = SmolLM2().open()
    with tempfile.TemporaryDirectory(prefix="jaxalign-bench-") as folder:
        asked = opened_prompts(BuiltinPrompts("heldout", limit=args.prompts), pathlib.Path(folder))
        prompts = [encoded(exact.chat, prompt) for prompt in map(asked.__getitem__, range(len(asked)))]
    models = {"fp32": exact, "bf16": SmolLM2("bfloat16").open()}
    params = exact.load()
    task = Task(args.samples, args.response_tokens, Temperature(1.0), exact.chat.stop)
    rows = []
    for name, engine in SIDES.items():
        model = models[name.partition(",")[0]]
        pieces = drawn(opened(engine, task, model, args.rows), params, prompts)
        apart = differences(exact, params, prompts, pieces)
        rows.append({"draws": name, "cache_bytes_a_token": cached(model, engine, params), **told(apart)})
    return rows


def differences(
    exact: Model, params: Params, prompts: Sequence[Sequence[int]], pieces: Sequence[Drawn]
) -> list[Float[np.ndarray, " t"]]:
    """Of each answer, token by token: its log-prob as the engine said it, less that of `exact`."""
    width = max(map(len, prompts)) + max(piece.tokens.shape[2] for piece in pieces)
    score = jax.jit(lambda params, rows: next_logps(exact, params, rows))
    found = []
    for number, tokens, lengths, said in answers_of(pieces):
        asked = prompts[number]
        rows = np.zeros((len(tokens), width), np.int32)
        rows[:, : len(asked)] = asked
        rows[:, len(asked) : len(asked) + tokens.shape[1]] = tokens
        logps = np.asarray(score(params, rows))[:, len(asked) - 1 :]
        found += [said[row, :length] - logps[row, :length] for row, length in enumerate(lengths)]
    return found


def answers_of(pieces: Sequence[Drawn]) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Prompt by prompt: its number, and tokens, lengths and log-probs of its answers."""
    for piece in pieces:
        yield from zip(map(int, piece.numbers), piece.tokens, piece.lengths, piece.logps, strict=True)


def next_logps(model: Model, params: Params, rows: Int[Array, "n s"]) -> Float[Array, "n s-1"]:
    """Of each token behind the first, by one pass over rows that are padded on the right."""
    position = jnp.broadcast_to(jnp.arange(rows.shape[1]), rows.shape)
    hidden = model.hidden(params, rows, position, position[:, :, None] >= position[:, None, :])
    logps = jax.nn.log_softmax(model.logits(params, hidden[:, :-1]), axis=-1)
    return jnp.take_along_axis(logps, rows[:, 1:, None], axis=2)[..., 0]


def told(apart: Sequence[Float[np.ndarray, " t"]]) -> dict[str, float]:
    """What the differences of all answers come to."""
    sums, each = np.array([answer.sum() for answer in apart]), np.abs(np.concatenate(apart))
    return {
        "kl_nats_an_answer": float(sums.mean()),
        "kl_stderr": float(sums.std(ddof=1) / np.sqrt(len(sums))) if len(sums) > 1 else float("nan"),
        "nats_a_token_mean": float(each.mean()),
        "nats_a_token_max": float(each.max()),
        "answers": len(sums),
        "tokens": len(each),
    }


def cached(model: Model, engine: Lockstep, params: Params) -> int:
    """Bytes that a token of a row takes in a cache: what a room of two tokens takes more than one of one."""

    def room(columns: int) -> int:
        tokens = jnp.zeros((1, 1), jnp.int32)
        made = jax.eval_shape(
            lambda params: model.caching(engine.kv_cache).prefill(
                params, tokens, tokens, jnp.ones((1, 1, 1), bool), 1, columns
            )[1],
            params,
        )
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(made.own))

    return room(2) - room(1)
