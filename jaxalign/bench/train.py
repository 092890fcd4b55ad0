"""The training step of a pair loss on SmolLM2-135M, side by side with torch and transformers.

Same weights, same pairs, same loss (INPO with cached references), same optimizer (clipped AdamW), fp32. The alternative
is the obvious one: chosen and rejected as rows of their own, padded to the longest, full logits, autograd. Steps are
interleaved, and medians compared; the ratio is torch's time over ours. Losses of the first step must agree.
"""

import argparse
import time
from typing import Any

import jax
import numpy as np

from jaxalign.bench.peers.torch_peer import TorchPeer
from jaxalign.data.groups import RolledGroups
from jaxalign.losses.inpo import INPO
from jaxalign.models.model import Model
from jaxalign.models.pretrained import SmolLM2
from jaxalign.rollouts.shares import given
from jaxalign.training.optim import AdamW, WarmupLinear
from jaxalign.training.rows import pack, row_shape, stack_microbatches
from jaxalign.training.step import init_state, make_step
from jaxalign.training.views import view_of
from jaxalign.types import Batch, Groups, Labels, Params, Rollouts

HELP = "a training step against torch + transformers"

LOSS = INPO(eta=0.1, tau=0.02)
OPTIMIZER = AdamW(WarmupLinear(peak=1e-5, warmup=0.0, floor=1.0))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sizes; the defaults are the quickstart's."""
    parser.add_argument("--pairs", type=int, default=8, help="pairs a step (default 8)")
    parser.add_argument("--prompt-tokens", type=int, default=45, help="tokens of a prompt (default 45)")
    parser.add_argument("--response-tokens", type=int, default=48, help="tokens of a response (default 48)")
    parser.add_argument("--rounds", type=int, default=3, help="timed steps of each side, interleaved (default 3)")


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows: implementation, seconds a step, tokens/s, first loss, ratio torch/ours."""
    model = SmolLM2().open()
    params = model.load()
    rollouts, pairs = random_pairs(args.pairs, args.prompt_tokens, args.response_tokens, model.chat.vocab)
    peer = TorchPeer.of(model, params)
    ours = _ours(model, params, rollouts, pairs)
    sides = {"jaxalign": ours}
    if peer is not None:
        sides["torch + transformers"] = lambda: peer.inpo_step(rollouts, LOSS, OPTIMIZER)
    losses = {name: step() for name, step in sides.items()}  # the first step compiles and is not timed
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(args.rounds):
        for name, step in sides.items():
            began = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - began)
    median = {name: float(np.median(values)) for name, values in seconds.items()}
    tokens = int((rollouts.prompt_lengths[:, None] + rollouts.lengths).sum())
    rows = [
        {
            "implementation": name,
            "seconds_per_step": median[name],
            "response_tokens_per_s": rollouts.lengths.sum() / median[name],
            "padded_pair_tokens": tokens,
            "first_loss": losses[name],
            "torch_over_ours": median["torch + transformers"] / median["jaxalign"] if peer is not None else None,
        }
        for name in sides
    ]
    return rows if peer is not None else [*rows, TorchPeer.absent()]


def random_pairs(count: int, prompt: int, response: int, vocab: int) -> tuple[Rollouts, Groups]:
    """Pairs of random tokens, all of full length: what is timed does not depend on what they say."""
    rng = np.random.default_rng(0)
    rollouts = given(
        rng.integers(3, vocab, (count, prompt)).astype(np.int32),
        np.full(count, prompt, np.int32),
        rng.integers(3, vocab, (count, 2, response)).astype(np.int32),
        np.full((count, 2), response, np.int32),
    )
    ones = np.ones(count, np.float32)
    labels = Labels.of_one(prefer=ones, win=np.tile(ones[:, None], (1, 2)))
    groups = Groups(np.arange(count), np.tile([[0, 1]], (count, 1)), weight=ones, labels=labels)
    return rollouts, groups


def _ours(model: Model, params: Params, rollouts: Rollouts, pairs: Groups) -> Any:
    optimizer, schedule = OPTIMIZER.build(1000)
    step = jax.jit(make_step(view_of(model, LOSS), optimizer, schedule), donate_argnums=0)
    state = init_state(params, optimizer)
    zeros = np.zeros(pairs.responses.shape, np.float32)
    groups = RolledGroups(rollouts, pairs)
    chosen, shape = np.arange(len(groups)), row_shape(groups)
    batch: Batch = stack_microbatches([pack(groups, chosen, shape, {"last": zeros, "anchor": zeros})])

    def advance() -> float:
        nonlocal state
        state, metrics = step(state, {}, {}, jax.device_put(batch))
        return float(metrics["loss"])

    return advance
