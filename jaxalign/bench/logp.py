"""Log-probs of tokens from hidden states and a head: ours, and what else is installed, side by side in one run.

Each implementation has a process of its own, so that its peak memory is its own; the processes take turns, and a time
is the least of all rounds. Timed: the log-probs alone, and with them the gradients of hidden states and head of a
DPO-like loss, whose cotangent depends on the values so that no side can skip its forward pass. Memory is what the
process (on CPU) or the device's allocator (on a GPU) grows by over the inputs, gradients included. The error is the
largest over 32 tokens against fp64 in NumPy. A peer that is not installed has a row that says so.
"""

import argparse
import ctypes
import gc
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from jaxalign.bench.peers.processes import told
from jaxalign.config.numbers import Whole

HELP = "log-probs of tokens against full logits, torch, Liger, cut-cross-entropy and tokamax"

FULL = "jaxalign full"
TORCH = "torch full"

LEAST = ("forward_ms", "forward_backward_ms", "peak_bytes")
"""columns of which the least of all rounds counts, and whose ratios to the other sides are columns too"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sizes; the defaults are 1,024 tokens of SmolLM2-135M."""
    parser.add_argument("--tokens", type=Whole(), default=1024, help="tokens, n (default 1024)")
    parser.add_argument("--width", type=Whole(), default=576, help="width of the hidden states, d (default 576)")
    parser.add_argument("--vocabulary", type=Whole(), default=49152, help="rows of the head, v (default 49152)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of both (default float32)")
    names = [side.replace(" ", "-") for side in SIDES]
    parser.add_argument("--sides", nargs="+", choices=names, default=names, metavar="SIDE", help="default: all")
    parser.add_argument("--rounds", type=Whole(), default=3, help="processes of each side, taking turns (default 3)")
    parser.add_argument("--repeats", type=Whole(), default=3, help="timed calls in each (default 3)")
    parser.add_argument("--limit-s", type=Whole(), default=3600, help="seconds that a process may take (default 3600)")


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows: implementation, backend, ms forward and forward + backward, peak bytes, max error, ratios."""
    made: dict[str, dict[str, Any]] = {}
    for _ in range(args.rounds):
        for side, (needs, _) in SIDES.items():
            if side.replace(" ", "-") not in args.sides:
                continue
            if missing := [module for module in needs if find_spec(module) is None]:
                made[side] = {"implementation": side, "skipped": f"{', '.join(missing)} not installed"}
            elif "skipped" not in made.get(side, {}):
                made[side] = _best(made.get(side), _in_a_process(side, args))
    return compared(list(made.values()))


def compared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """With columns for the ratios to our full logits and to the peers that have figures."""
    measured = [row for row in rows if "skipped" not in row]
    others = [
        row for row in measured if not row["implementation"].startswith("jaxalign") or row["implementation"] == FULL
    ]
    for row in measured:
        for other in others:
            name = other["implementation"].removeprefix("jaxalign ").replace(" ", "_")
            for key in LEAST:
                row[f"{key}_over_{name}"] = _ratio(row[key], other[key])
    return rows


def _ratio(ours: float | int, theirs: float | int) -> float | None:
    """None over nothing: what a tiny problem needs can be in memory that the process has."""
    return round(ours / theirs, 3) if theirs else None


def _best(old: dict[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    if old is None or "skipped" in new:
        return new
    return {key: min(old[key], value) if key in LEAST else value for key, value in new.items()}


def _in_a_process(side: str, args: argparse.Namespace) -> dict[str, Any]:
    given = {name: getattr(args, name) for name in ("tokens", "width", "vocabulary", "dtype", "repeats")}
    command = [sys.executable, "-m", "jaxalign.bench.logp", side, json.dumps(given)]
    found = told(command, float(args.limit_s))
    return {"implementation": side, **found} if "skipped" in found else found


# --------------------------------------------------------------------------------------------------------------
# One side, in its own process

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Memory:
    """Bytes of a device's memory in use, and the most so far."""

    now: int
    most: int


@dataclass(frozen=True)
class Prepared:
    """A side ready to run: both calls wait for their result, `memory` asks the device's allocator, if it has one."""

    backend: str
    forward: Callable[[], Any]
    both: Callable[[], Any]
    logp: Callable[[], np.ndarray]
    memory: Callable[[], Memory | None]


def _jax_side(op: Callable[[Any, Any, Any], Any], arrays: Arrays, dtype: str) -> Prepared:
    import jax
    import jax.numpy as jnp

    hidden, head, targets = (jnp.asarray(a, t) for a, t in zip(arrays, (dtype, dtype, "int32"), strict=True))
    half = len(targets) // 2

    def loss(hidden: Any, head: Any) -> Any:
        logp = op(hidden, head, targets)
        return -jax.nn.log_sigmoid(0.1 * (logp[:half].sum() - logp[half:].sum()))

    forward, both = jax.jit(op), jax.jit(jax.value_and_grad(loss, (0, 1)))
    jax.block_until_ready((hidden, head))
    return Prepared(
        f"jax {jax.__version__} {jax.devices()[0].device_kind}",
        lambda: jax.block_until_ready(forward(hidden, head, targets)),
        lambda: jax.block_until_ready(both(hidden, head)),
        lambda: np.asarray(forward(hidden, head, targets), np.float64),
        _jax_memory,
    )


def _jax_memory() -> Memory | None:
    import jax

    stats = jax.devices()[0].memory_stats()
    return Memory(stats["bytes_in_use"], stats["peak_bytes_in_use"]) if stats else None


def _ours(implementation: str) -> Callable[[Arrays, str], Prepared]:
    def prepare(arrays: Arrays, dtype: str) -> Prepared:
        from jaxalign.ops.linear_logp import LogpOptions, linear_logp

        options = LogpOptions(implementation=implementation)
        return _jax_side(lambda h, w, y: linear_logp(h, w, y, options), arrays, dtype)

    return prepare


def _tokamax(arrays: Arrays, dtype: str) -> Prepared:
    """Its loss is a sum, so its row times the loss of that sum; single log-probs it does not give."""
    import jax
    import jax.numpy as jnp
    import tokamax

    hidden, head, targets = (jnp.asarray(a, t) for a, t in zip(arrays, (dtype, dtype, "int32"), strict=True))

    def loss(hidden: Any, head: Any) -> Any:
        return tokamax.linear_softmax_cross_entropy_loss(hidden, targets, head.T, reduction="sum")

    forward, both = jax.jit(loss), jax.jit(jax.value_and_grad(loss, (0, 1)))
    return Prepared(
        f"tokamax on jax {jax.__version__} {jax.devices()[0].device_kind}",
        lambda: jax.block_until_ready(forward(hidden, head)),
        lambda: jax.block_until_ready(both(hidden, head)),
        lambda: np.full(len(targets), np.nan),
        _jax_memory,
    )


def _torch_side(op: Callable[[Any, Any, Any], Any]) -> Callable[[Arrays, str], Prepared]:
    def prepare(arrays: Arrays, dtype: str) -> Prepared:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        hidden, head = (torch.tensor(a, dtype=getattr(torch, dtype), device=device) for a in arrays[:2])
        targets = torch.tensor(arrays[2], dtype=torch.int64, device=device)
        half = len(targets) // 2

        def wait() -> None:
            if device == "cuda":
                torch.cuda.synchronize()

        def forward() -> Any:
            with torch.no_grad():
                made = op(hidden, head, targets)
            wait()
            return made

        def both() -> Any:
            h, w = hidden.detach().requires_grad_(), head.detach().requires_grad_()
            logp = op(h, w, targets)
            (-torch.nn.functional.logsigmoid(0.1 * (logp[:half].sum() - logp[half:].sum()))).backward()
            wait()
            return h.grad, w.grad

        def memory() -> Memory | None:
            if device == "cpu":
                return None
            return Memory(torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated())

        name = f"torch {torch.__version__} {device}"
        return Prepared(name, forward, both, lambda: forward().double().cpu().numpy(), memory)

    return prepare


def _torch_full(hidden: Any, head: Any, targets: Any) -> Any:
    import torch

    return torch.log_softmax(hidden @ head.T, -1).gather(1, targets[:, None])[:, 0]


def _torch_linear(hidden: Any, head: Any, targets: Any) -> Any:
    import torch

    return -torch.nn.functional.linear_cross_entropy(hidden, head, targets, reduction="none")


def _liger(hidden: Any, head: Any, targets: Any) -> Any:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    return -LigerFusedLinearCrossEntropyLoss(reduction="none")(head, hidden, targets)


def _cut(hidden: Any, head: Any, targets: Any) -> Any:
    from cut_cross_entropy import linear_cross_entropy

    return -linear_cross_entropy(hidden, head, targets, reduction="none")


SIDES: dict[str, tuple[tuple[str, ...], Callable[[Arrays, str], Prepared]]] = {
    "jaxalign auto": ((), _ours("auto")),
    "jaxalign chunked": ((), _ours("chunked")),
    FULL: ((), _ours("full")),
    TORCH: (("torch",), _torch_side(_torch_full)),
    "torch linear_cross_entropy": (("torch",), _torch_side(_torch_linear)),
    "Liger": (("torch", "triton", "liger_kernel"), _torch_side(_liger)),
    "cut-cross-entropy": (("torch", "triton", "cut_cross_entropy"), _torch_side(_cut)),
    "tokamax": (("tokamax",), _tokamax),
}


def _problem(tokens: int, width: int, vocabulary: int) -> Arrays:
    r = np.random.default_rng(0)
    hidden = r.standard_normal((tokens, width), np.float32)
    head = r.standard_normal((vocabulary, width), np.float32)
    head *= np.float32(1.2 / width**0.5)
    return hidden, head, r.integers(0, vocabulary, tokens)


def _error(arrays: Arrays, dtype: str, logp: np.ndarray, tokens: int = 32) -> float:
    """Largest error of the first tokens, nats, against fp64 of the inputs as the side has them."""
    import ml_dtypes

    kind = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}[dtype]
    hidden, head = (a.astype(kind).astype(np.float64) for a in (arrays[0][:tokens], arrays[1]))
    z = hidden @ head.T
    top = z.max(-1)
    lse = top + np.log(np.exp(z - top[:, None]).sum(-1))
    return float(np.abs(logp[:tokens] - (z[np.arange(len(z)), arrays[2][:tokens]] - lse)).max())


def _resident(key: str) -> int:
    """Bytes, from the kernel's account of this process; VmHWM is the peak since it was last cleared."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def _least_ms(call: Callable[[], Any], repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return round(1e3 * min(times), 3)


def _measure(side: str, given: dict[str, Any]) -> dict[str, Any]:
    arrays = _problem(given["tokens"], given["width"], given["vocabulary"])
    prepared = SIDES[side][1](arrays, given["dtype"])
    inputs = prepared.memory()
    prepared.forward()
    prepared.both()
    gc.collect()
    # what compiling left behind goes back to the system, or the measured calls would grow into it unseen
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    forward = _least_ms(prepared.forward, given["repeats"])
    both = _least_ms(prepared.both, given["repeats"])
    after = prepared.memory()
    peak = _resident("VmHWM") - before if inputs is None or after is None else after.most - inputs.now
    error = _error(arrays, given["dtype"], prepared.logp())
    return {
        "implementation": side,
        "backend": prepared.backend,
        "forward_ms": forward,
        "forward_backward_ms": both,
        "peak_bytes": peak,
        "max_error": None if np.isnan(error) else error,
    }


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1], json.loads(sys.argv[2]))))
