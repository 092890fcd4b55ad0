"""Host time of a training step: what the fit does for each batch besides the computation on the devices.

Packing the groups into rows, stacking microbatches, and the transfer to the devices, over random groups of full length.
No model, no compilation; nothing but NumPy until the transfer. Least and median over the timed steps. The last line is
what a fit waits for, whose batches are made ahead while its devices compute: here they do by sleeping.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxalign.bench.train import random_pairs
from jaxalign.config.numbers import Real, Whole
from jaxalign.config.overrides import refuse
from jaxalign.data.ahead import ahead
from jaxalign.data.groups import RolledGroups
from jaxalign.fit import make_batch
from jaxalign.mesh.rows import on_mesh
from jaxalign.mesh.sharding import MeshShape, row_sharding, row_shards
from jaxalign.training.row_plan import row_tokens
from jaxalign.training.rows import row_shape
from jaxalign.training.scored import ReferenceLogps
from jaxalign.types import Batch

HELP = "host time of a training step: packing, stacking, transfer"

VOCABULARY = 128_256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sizes; the defaults make rows of 3,072 tokens."""
    parser.add_argument("--groups", type=Whole(), default=512, help="groups, and rows, a step (default 512)")
    parser.add_argument("--prompt-tokens", type=Whole(), default=1024, help="tokens of a prompt (default 1024)")
    parser.add_argument(
        "--response-tokens", type=Whole(), default=1024, help="tokens of each of two responses (default 1024)"
    )
    parser.add_argument("--accumulate", type=Whole(), default=1, help="microbatches a step (default 1)")
    parser.add_argument(
        "--device-ms", type=Real(0.0, 1e6), default=100, help="milliseconds of computation a step (default 100)"
    )
    parser.add_argument("--steps", type=Whole(), default=20, help="timed steps (default 20)")


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each part of a step's host time: least and median milliseconds."""
    mesh = MeshShape().build()
    refuse(_problems(args, row_shards(mesh)))
    groups = RolledGroups(*random_pairs(2 * args.groups, args.prompt_tokens, args.response_tokens, VOCABULARY))
    sums = np.zeros((2, len(groups), 2), np.float32)
    references, shape = ReferenceLogps(("last", "anchor"), sums), row_shape(groups)
    here, sharding = np.ones(args.groups // args.accumulate, bool), row_sharding(mesh, leading=1)

    def chosen_for(number: int) -> np.ndarray:
        return np.random.default_rng(number).permutation(2 * args.groups)[: args.groups, None]

    def step(number: int) -> tuple[Batch, dict[str, float]]:
        chosen = chosen_for(number)
        began = time.perf_counter()
        batch = make_batch(groups, references, chosen, shape, args.accumulate, here)
        packed = time.perf_counter()
        row_tokens(groups, chosen)
        counted = time.perf_counter()
        jax.block_until_ready(on_mesh(batch, sharding))
        moved = time.perf_counter()
        return batch, {
            "pack and stack": packed - began,
            "count tokens": counted - packed,
            "transfer": moved - counted,
            "all": moved - began,
        }

    def make(number: int) -> Batch:
        batch = make_batch(groups, references, chosen_for(number), shape, args.accumulate, here)
        return on_mesh(batch, sharding)

    batch, _ = step(args.steps)  # touches memory that the others reuse
    taken = [step(number)[1] for number in range(args.steps)]
    rows = [_row(part, [seconds[part] for seconds in taken], batch) for part in taken[0]]
    return [*rows, _row("waited for", _waits(make, args.steps, args.device_ms / 1e3), batch)]


def _problems(args: argparse.Namespace, shards: int) -> list[str]:
    """Microbatches have as many rows each, and so have the devices."""
    if args.groups % (args.accumulate * shards) == 0:
        return []
    each = f"--accumulate {args.accumulate} microbatches on {shards} devices"
    return [f"--groups {args.groups}: rows of {each} must be a multiple of {args.accumulate * shards}"]


def _waits(make: Callable[[int], Batch], steps: int, seconds: float) -> list[float]:
    """What each step but the first waits for its batch, where the devices compute for so many seconds a step."""
    waits = []
    with ahead(make, range(steps + 1)) as batches:
        for _ in range(steps + 1):
            began = time.perf_counter()
            jax.block_until_ready(next(batches))
            waits.append(time.perf_counter() - began)
            time.sleep(seconds)
    return waits[1:]


def _row(name: str, seconds: list[float], batch: Batch) -> dict[str, Any]:
    _, rows, tokens = batch.rows.tokens.shape
    return {
        "part": name,
        "least_ms": 1e3 * min(seconds),
        "median_ms": 1e3 * float(np.median(seconds)),
        "rows": rows,
        "row_tokens": tokens,
        "batch_mb": sum(leaf.nbytes for leaf in jax.tree.leaves(batch)) / 1e6,
    }
