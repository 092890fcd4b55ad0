"""Sampling from SmolLM2-135M, side by side with torch and transformers' generate.

Same weights, same prompts, plain sampling at temperature 1, every response runs to the length limit on both sides,
fp32. Rounds are interleaved, and medians compared; the ratio is torch's time over ours.
"""

import argparse
import time
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxalign.bench.peers.torch_peer import TorchPeer
from jaxalign.models.pretrained import SmolLM2
from jaxalign.rollouts.lockstep import generate
from jaxalign.rollouts.samplers import Temperature

HELP = "sampling against torch + transformers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sizes; the defaults suit two cores."""
    parser.add_argument("--prompts", type=int, default=16, help="prompts together (default 16)")
    parser.add_argument("--samples", type=int, default=4, help="responses a prompt (default 4)")
    parser.add_argument("--prompt-tokens", type=int, default=48, help="tokens of a prompt (default 48)")
    parser.add_argument("--response-tokens", type=int, default=48, help="tokens of a response (default 48)")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds of each side, interleaved (default 3)")


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows: implementation, seconds, tokens/s, ratio torch/ours."""
    model = SmolLM2().open()
    params = model.load()
    prompts = (
        np.random.default_rng(0).integers(3, model.chat.vocab, (args.prompts, args.prompt_tokens)).astype(np.int32)
    )
    lengths = np.full(args.prompts, args.prompt_tokens, np.int32)
    keys = jax.random.split(jax.random.key(0), args.prompts)
    roll = jax.jit(partial(generate, model, Temperature(1.0), (), args.samples, args.response_tokens))
    peer = TorchPeer.of(model, params)
    sides = {"jaxalign": lambda: jax.block_until_ready(roll(params, prompts, lengths, keys))}
    if peer is not None:
        sides["torch + transformers"] = lambda: peer.sample(prompts, args.samples, args.response_tokens)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for timed in range(-1, args.rounds):  # the first round compiles and is not counted
        for name, side in sides.items():
            began = time.perf_counter()
            side()
            if timed >= 0:
                seconds[name].append(time.perf_counter() - began)
    median = {name: float(np.median(values)) for name, values in seconds.items()}
    tokens = args.prompts * args.samples * args.response_tokens
    rows = [
        {
            "implementation": name,
            "seconds": median[name],
            "tokens_per_s": tokens / median[name],
            "torch_over_ours": median["torch + transformers"] / median["jaxalign"] if peer is not None else None,
        }
        for name in sides
    ]
    return rows if peer is not None else [*rows, TorchPeer.absent()]
