"""Sampling from SmolLM2-135M: side by side with torch and transformers' generate, or engine beside engine.

Same weights, same prompts, plain sampling at temperature 1, fp32; rounds are interleaved, and medians compared. Where
every answer runs to the limit, the peer is torch, and the ratio is its time over ours. Where answers end (each token
with a chance), the engines are compared: how many tokens their rows compute for each that is kept, and their times.
"""

import argparse
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxalign.bench.peers.torch_peer import TorchPeer
from jaxalign.config.numbers import Real, Whole
from jaxalign.mesh.sharding import MeshShape
from jaxalign.models.model import Model
from jaxalign.models.pretrained import SmolLM2
from jaxalign.rollouts.contract import Drawer, Drawn, RolloutEngine, Task
from jaxalign.rollouts.lockstep import Lockstep
from jaxalign.rollouts.samplers import Temperature
from jaxalign.rollouts.slots import Slots
from jaxalign.types import Params

HELP = "sampling against torch + transformers, or engine against engine"


@dataclass(frozen=True)
class Ending:
    """Draws from the policy, but ends the answer with probability `chance` at every token."""

    chance: float
    stop: int

    def __call__(self, logits: Float[Array, "b v"], keys: Key[Array, " b"]) -> Int[Array, " b"]:
        ends = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 1)))(keys) < self.chance
        return jnp.where(ends, self.stop, Temperature(1.0)(logits, keys))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sizes; the defaults suit two cores."""
    parser.add_argument("--prompts", type=Whole(), default=16, help="prompts together (default 16)")
    parser.add_argument("--samples", type=Whole(), default=4, help="responses a prompt (default 4)")
    parser.add_argument("--prompt-tokens", type=Whole(), default=48, help="tokens of a prompt (default 48)")
    parser.add_argument("--response-tokens", type=Whole(), default=48, help="tokens of a response at most (default 48)")
    parser.add_argument("--rows", type=Whole(), default=128, help="responses together (default 128)")
    parser.add_argument(
        "--end-chance",
        type=Real(0.0, 1.0),
        default=0.0,
        help="of each token to be a response's last: compares engines (default 0)",
    )
    parser.add_argument("--rounds", type=Whole(), default=3, help="timed rounds of each side, interleaved (default 3)")


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows: implementation, seconds, tokens/s; ratio torch/ours, or tokens computed for each that is kept."""
    model = SmolLM2().open()
    params = model.load()
    shape = (args.prompts, args.prompt_tokens)
    prompts = np.random.default_rng(0).integers(3, model.chat.vocab, shape).tolist()
    if args.end_chance:
        return engines(args, model, params, prompts)
    ours = opened(Lockstep(), Task(args.samples, args.response_tokens, Temperature(1.0), ()), model, args.rows)
    sides: dict[str, Callable[[], Any]] = {"jaxalign": lambda: drawn(ours, params, prompts)}
    peer = TorchPeer.of(model, params)
    if peer is not None:
        table = np.array(prompts, np.int32)
        sides["torch + transformers"] = lambda: peer.sample(table, args.samples, args.response_tokens)
    median = medians(sides, args.rounds)
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


def engines(args: argparse.Namespace, model: Model, params: Params, prompts: list[list[int]]) -> list[dict[str, Any]]:
    """The same answers by each engine."""
    stop = model.chat.stop[0]
    task = Task(args.samples, args.response_tokens, Ending(args.end_chance, stop), (stop,))
    found: dict[str, list[Drawn]] = {}

    def side(name: str, engine: RolloutEngine) -> Callable[[], None]:
        drawer = opened(engine, task, model, args.rows)
        return lambda: found.__setitem__(name, drawn(drawer, params, prompts))

    median = medians({"lockstep": side("lockstep", Lockstep()), "slots": side("slots", Slots())}, args.rounds)
    kept = sum(int(piece.lengths.sum()) for piece in found["slots"])
    same = np.mean(tokens_of(found["slots"]) == tokens_of(found["lockstep"]))
    return [
        {
            "implementation": name,
            "seconds": median[name],
            "tokens_per_s": kept / median[name],
            "computed_per_kept": computed(name, found[name], args) / kept,
            "lockstep_over_this": median["lockstep"] / median[name],
            "same_tokens": float(same),
        }
        for name in median
    ]


def opened(engine: RolloutEngine, task: Task, model: Model, rows: int) -> Drawer:
    """On one device."""
    return engine.open(task, model, MeshShape(fsdp=1).build(jax.devices()[:1]), None, rows)


def drawn(drawer: Drawer, params: Params, prompts: list[list[int]]) -> list[Drawn]:
    """Answers to all prompts."""
    return list(drawer(params, prompts, np.arange(len(prompts)), jax.random.key(0)))


def computed(name: str, pieces: Iterable[Drawn], args: argparse.Namespace) -> float:
    """Tokens that rows have computed, for somebody or nobody."""
    if name == "slots":
        return sum(float(piece.notes["row_steps"].sum()) for piece in pieces)
    together = min(max(args.rows // args.samples, 1), args.prompts) * args.samples
    return sum(together * int(piece.lengths.max()) for piece in pieces)


def tokens_of(pieces: Iterable[Drawn]) -> Int[np.ndarray, "b m t"]:
    """In the order of the prompts' numbers."""
    there = list(pieces)
    order = np.argsort(np.concatenate([piece.numbers for piece in there]))
    return np.concatenate([piece.tokens for piece in there])[order]


def medians(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Seconds of each side; a first round, which compiles, is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for timed in range(-1, rounds):
        for name, side in sides.items():
            began = time.perf_counter()
            side()
            if timed >= 0:
                seconds[name].append(time.perf_counter() - began)
    return {name: float(np.median(values)) for name, values in seconds.items()}
