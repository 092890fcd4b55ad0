"""Attention of tree rows by each implementation that runs on this platform, side by side in one process.

Rows are one causal text, or pairs that share their prompts, packed; the implementations take turns, and a time is the
least of all rounds. Timed: what the queries find, and with it the gradients of queries, keys and values. The error is
the largest of what is found, against all scores at once. Of one causal text torch's own attention is beside them, where
torch is installed: it knows no trees.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxalign.config.numbers import Whole
from jaxalign.config.overrides import refuse

if TYPE_CHECKING:
    from jaxalign.ops.attention.engine import Engine
    from jaxalign.ops.attention.problem import Problem, Scores

HELP = "attention of tree rows: all scores at once, blocks of XLA, kernels"

DENSE = "all scores"
TORCH = "torch scaled_dot_product_attention"

PAIR, PROMPT, ANSWERS = (300, 600), (60, 200), (48,) * 6
"""Tokens of a pair with its prompt, of a prompt of several answers, of these"""

TREES = {"causal": 1, "pairs": PAIR[1], "answers": PROMPT[1] + sum(ANSWERS)}
"""one text, pairs, groups of six answers: tokens of the longest, which a row has room for"""

BLOCKS = ((128, 128, 128), (256, 256, 256), (512, 256, 256), (512, 512, 512), (512, 512, 256), (1024, 512, 512))
"""queries and keys of a visit, and of its parts"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sizes; the defaults are a row of SmolLM2-135M."""
    parser.add_argument("--rows", type=Whole(), default=1, help="rows, n (default 1)")
    parser.add_argument("--tokens", type=Whole(), default=2048, help="tokens of a row (default 2048)")
    parser.add_argument("--kv-heads", type=Whole(), default=3, help="KV heads (default 3)")
    parser.add_argument("--group", type=Whole(), default=3, help="query heads of a KV head (default 3)")
    parser.add_argument("--head", type=Whole(), default=64, help="head size (default 64)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of all (default float32)")
    parser.add_argument("--trees", choices=TREES, default="causal", help="what rows hold (default causal)")
    parser.add_argument("--visits", action="store_true", help="no times: what kernels visit, by block sizes")
    parser.add_argument("--repeats", type=Whole(), default=3, help="timed calls of each (default 3)")


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows: implementation, device, ms forward and forward + backward, largest error, pairs of tokens that see; or,
    by block sizes, visits of a row and what is computed over what is seen."""
    import jax

    refuse(_problems(args))
    problem, scores = _problem(args)
    if args.visits:
        return [_visited(problem, blocks) for blocks in BLOCKS]
    calls = {name: _calls(engine, problem, scores) for name, engine in _engines(problem, scores).items()}
    if args.trees == "causal" and find_spec("torch") is not None:
        calls[TORCH] = _torch_calls(problem, scores)
    found = {name: np.asarray(forward(), np.float32) for name, (forward, _) in calls.items()}
    for _, both in calls.values():
        both()
    best: dict[str, list[float]] = {}
    for _ in range(args.repeats):
        for name, pair in calls.items():
            times = [_ms(call) for call in pair]
            best[name] = [min(old, new) for old, new in zip(best.get(name, times), times, strict=True)]
    real = np.asarray(problem.mine.group) >= 0
    rows = [
        {
            "implementation": name,
            "device": jax.devices()[0].device_kind,
            "forward_ms": forward,
            "forward_backward_ms": both,
            "max_error": float(np.abs(found[name] - found[DENSE])[real].max()),
            "pairs": int(np.asarray(problem.mine.mask()).sum()),
        }
        for name, (forward, both) in best.items()
    ]
    if args.trees == "causal" and TORCH not in calls:
        rows.append({"implementation": TORCH, "skipped": "torch not installed"})
    return rows


def _problems(args: argparse.Namespace) -> list[str]:
    """A row that holds nothing has nothing to attend to."""
    longest = TREES[args.trees]
    if args.tokens >= longest:
        return []
    return [
        f"--trees {args.trees}: a group has up to {longest} tokens, and a row of --tokens {args.tokens} may hold none"
    ]


def _engines(problem: "Problem", scores: "Scores") -> "dict[str, Engine | None]":
    import jax

    from jaxalign.ops.attention import blockwise, dispatch

    found: dict[str, Engine | None] = {DENSE: None, "blockwise": blockwise.engine(dispatch.BLOCK)}
    kernels = dispatch.kernels(jax.devices()[0], problem, scores)
    if kernels is not None:
        found[kernels.name] = kernels
    return found


def _calls(
    engine: "Engine | None", problem: "Problem", scores: "Scores"
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """What is found, and that with the gradients of its sum of squares; both wait for their result."""
    import jax
    import jax.numpy as jnp

    from jaxalign.ops.attention.engine import attended
    from jaxalign.ops.attention.problem import Problem
    from jaxalign.ops.attention.reference import dense

    def found(query: Any, key: Any, value: Any) -> Any:
        if engine is None:
            return dense(query, key, value, problem.mine.mask(), scores.scalar, scores.cap)
        return attended(engine, scores, Problem(query, key, value, problem.mine, problem.theirs, None))

    def loss(query: Any, key: Any, value: Any) -> Any:
        return jnp.square(found(query, key, value).astype(jnp.float32)).sum()

    operands = problem.query, problem.key, problem.value
    forward, both = jax.jit(found), jax.jit(jax.value_and_grad(loss, (0, 1, 2)))
    return lambda: jax.block_until_ready(forward(*operands)), lambda: jax.block_until_ready(both(*operands))


def _torch_calls(problem: "Problem", scores: "Scores") -> tuple[Callable[[], Any], Callable[[], Any]]:
    """As `_calls`, by torch on its GPU where it has one, of one causal text; its result is given as ours lies."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    (n, s, k, g, h), kind = problem.query.shape, getattr(torch, str(problem.query.dtype))

    def moved(array: Any, *axes: int) -> Any:
        """On torch's device, as [n heads tokens h]."""
        laid = np.asarray(array, np.float32).transpose(*axes)
        return torch.tensor(laid.reshape(n, -1, s, h), dtype=kind, device=device)

    query, key, value = (
        moved(problem.query, 0, 2, 3, 1, 4),
        moved(problem.key, 0, 1, 3, 2),
        moved(problem.value, 0, 1, 2, 3),
    )

    def attend(query: Any, key: Any, value: Any) -> Any:
        scale = scores.scalar**-0.5
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scale, enable_gqa=True
        )

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def forward() -> Any:
        with torch.no_grad():
            found = attend(query, key, value)
        wait()
        return Found(found, (n, k, g, s, h))

    def both() -> Any:
        operands = [each.detach().requires_grad_() for each in (query, key, value)]
        attend(*operands).float().square().sum().backward()
        wait()
        return [each.grad for each in operands]

    return forward, both


@dataclass(frozen=True)
class Found:
    """What torch found, on its device until somebody asks: copying is not what is timed."""

    found: Any
    shape: tuple[int, ...]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del copy
        values = self.found.float().cpu().numpy().reshape(self.shape)
        return values.transpose(0, 3, 1, 2, 4).astype(dtype or np.float32)


def _visited(problem: "Problem", blocks: tuple[int, int, int]) -> dict[str, Any]:
    """Of a KV head and a row, on average."""
    from jaxalign.ops.attention.mosaic.visits import counted

    queries, keys, part = blocks
    rows = len(problem.mine.group)
    count = counted(problem.mine, None, (queries, keys), part)
    seen = int(np.asarray(problem.mine.mask()).sum())
    return {
        "queries": queries,
        "keys": keys,
        "part": part,
        "visits": count.every / rows,
        "whole": count.whole / rows,
        "parts": count.parts / rows,
        "computed_over_seen": count.computed((queries, keys), part) / seen,
    }


def _ms(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - began)


def _problem(args: argparse.Namespace) -> "tuple[Problem, Scores]":
    import jax.numpy as jnp

    from jaxalign.ops.attention.problem import Problem, Scores
    from jaxalign.ops.attention.sight import Tree

    r = np.random.default_rng(0)
    n, s, k, g, h = args.rows, args.tokens, args.kv_heads, args.group, args.head
    ids = Tree(*(jnp.asarray(each, jnp.int32) for each in np.stack([_row(r, s, args.trees) for _ in range(n)], 1)))
    shapes = ((n, s, k, g, h), (n, k, h, s), (n, k, s, h))
    query, key, value = (jnp.asarray(r.standard_normal(shape, np.float32), args.dtype) for shape in shapes)
    return Problem(query, key, value, ids, ids, None), Scores(float(h))


def _row(r: np.random.Generator, tokens: int, trees: str) -> np.ndarray:
    """Groups, branches and positions of a row: one text, or as many groups as go in: pairs of which a fifth to a half
    is the prompt, or answers behind prompts of 60 to 200 tokens."""
    ids, number = np.stack([np.full(tokens, -1), np.zeros(tokens, int), np.zeros(tokens, int)]), 0
    if trees == "causal":
        return np.stack([np.zeros(tokens, int), np.zeros(tokens, int), np.arange(tokens)])
    start = 0
    while True:
        parts = _pair(r) if trees == "pairs" else (int(r.integers(PROMPT[0], PROMPT[1] + 1)), *ANSWERS)
        if start + sum(parts) > tokens:
            return ids
        for branch, size in enumerate(parts):
            begin = parts[0] if branch else 0
            ids[:, start : start + size] = (
                np.full(size, number),
                np.full(size, branch),
                np.arange(begin, begin + size),
            )
            start += size
        number += 1


def _pair(r: np.random.Generator) -> tuple[int, int, int]:
    whole = int(r.integers(PAIR[0], PAIR[1] + 1))
    prompt = int(whole * r.uniform(0.2, 0.5))
    first = int((whole - prompt) * r.uniform(0.35, 0.65))
    return prompt, first, whole - prompt - first
