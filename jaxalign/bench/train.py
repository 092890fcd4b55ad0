"""The training step of a pair loss on SmolLM2-135M, side by side with torch and transformers.

Same weights, same pairs, same loss (INPO with cached references), same optimizer (clipped AdamW), fp32. The alternative
is the obvious one: chosen and rejected as rows of their own, padded to the longest, full logits, autograd. Steps are
interleaved, and medians compared; the ratio is torch's time over ours. Losses of the first step must agree.

With more than two answers a prompt, all their pairs are trained on, in rows that they share and in rows of their own.
With several objectives the same pairs are trained on once more, each objective with labels of its own, combined by
RACO; that is one forward pass and as many backward passes, and has no peer. So has LoRA, where the base stays.
"""

import argparse
import time
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from jaxalign.bench.peers.torch_peer import TorchPeer
from jaxalign.config.numbers import Whole
from jaxalign.data.groups import RolledGroups
from jaxalign.losses.inpo import INPO
from jaxalign.mesh.sharding import RULES, MeshShape
from jaxalign.models.lora import LoRA
from jaxalign.models.low_rank import frozen
from jaxalign.models.model import Model
from jaxalign.models.pretrained import SmolLM2
from jaxalign.models.remat import REMAT
from jaxalign.objectives.mixed import Mixed
from jaxalign.objectives.raco import RACO
from jaxalign.rollouts.shares import given
from jaxalign.training.optim import AdamW, WarmupLinear
from jaxalign.training.row_plan import plan_rows
from jaxalign.training.rows import pack, stack_microbatches
from jaxalign.training.step import init_state, make_step
from jaxalign.training.views import view_of
from jaxalign.types import Batch, Combiner, Groups, Labels, Params, Rollouts

HELP = "a training step against torch + transformers"

LOSS = INPO(eta=0.1, tau=0.02)
OPTIMIZER = AdamW(WarmupLinear(peak=1e-5, warmup=0.0, floor=1.0))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sizes; the defaults suit two cores."""
    parser.add_argument("--prompts", type=Whole(), default=8, help="prompts a step (default 8)")
    parser.add_argument(
        "--answers", type=Whole(2), default=2, help="answers a prompt, of which all pairs count (default 2)"
    )
    parser.add_argument("--prompt-tokens", type=Whole(), default=45, help="tokens of a prompt (default 45)")
    parser.add_argument("--response-tokens", type=Whole(), default=48, help="tokens of a response (default 48)")
    parser.add_argument("--remat", choices=REMAT, default="none", help="what our backward pass keeps (default none)")
    parser.add_argument(
        "--objectives", type=Whole(), default=1, help="kept apart, beside one (default 1: no other side)"
    )
    parser.add_argument("--lora", type=Whole(), default=None, help="rank of adapters on a frozen base (default: full)")
    parser.add_argument("--rounds", type=Whole(), default=3, help="timed steps of each side, interleaved (default 3)")


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows: implementation, seconds a step, tokens/s, first loss, ratio torch/ours."""
    source = SmolLM2() if args.lora is None else LoRA(SmolLM2(), rank=args.lora, alpha=2.0 * args.lora)
    model = source.open().on(MeshShape(fsdp=1).build(), RULES, args.remat)
    params = model.load()
    rollouts, pairs = all_pairs(args.prompts, args.answers, args.prompt_tokens, args.response_tokens, model.chat.vocab)
    peer = TorchPeer.of(model, params) if args.lora is None else None
    a_row = args.answers * (args.answers - 1) // 2
    sides = {"jaxalign": _ours(model, params, rollouts, pairs, a_row)}
    if args.objectives > 1:
        shares = (1 / args.objectives,) * args.objectives
        apart_side = f"jaxalign, {args.objectives} objectives"
        sides[apart_side] = _ours(model, params, rollouts, divided(pairs, args.objectives), a_row, RACO(shares))
    if args.answers > 2:
        sides["jaxalign, a row a pair"] = _ours(model, params, rollouts, pairs, 1)
    rollouts = apart(rollouts, pairs)
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
            "pairs_per_s": len(pairs.prompt) / median[name],
            "padded_pair_tokens": tokens,
            "first_loss": losses[name],
            "torch_over_ours": median["torch + transformers"] / median["jaxalign"] if peer is not None else None,
            "over_one_objective": median[name] / median["jaxalign"],
        }
        for name in sides
    ]
    return rows if peer is not None or args.lora is not None else [*rows, TorchPeer.absent()]


def all_pairs(count: int, answers: int, prompt: int, response: int, vocab: int) -> tuple[Rollouts, Groups]:
    """All pairs of the answers to each prompt, of random tokens and full length: what is timed does not depend on what
    they say."""
    rng = np.random.default_rng(0)
    rollouts = given(
        rng.integers(3, vocab, (count, prompt)).astype(np.int32),
        np.full(count, prompt, np.int32),
        rng.integers(3, vocab, (count, answers, response)).astype(np.int32),
        np.full((count, answers), response, np.int32),
    )
    each = np.stack(np.triu_indices(answers, 1), -1)
    ones = np.ones(count * len(each), np.float32)
    labels = Labels.of_one(prefer=ones, win=np.tile(ones[:, None], (1, 2)))
    groups = Groups(np.repeat(np.arange(count), len(each)), np.tile(each, (count, 1)), weight=ones, labels=labels)
    return rollouts, groups


def random_pairs(count: int, prompt: int, response: int, vocab: int) -> tuple[Rollouts, Groups]:
    """The one pair of two answers to each prompt."""
    return all_pairs(count, 2, prompt, response, vocab)


def apart(rollouts: Rollouts, pairs: Groups) -> Rollouts:
    """Each pair as the two answers to a prompt of its own."""
    prompt, answers = pairs.prompt, (pairs.prompt[:, None], pairs.responses)
    return given(
        rollouts.prompt_tokens[prompt],
        rollouts.prompt_lengths[prompt],
        rollouts.tokens[answers],
        rollouts.lengths[answers],
    )


def divided(pairs: Groups, objectives: int) -> Groups:
    """The same pairs with a vote of each objective, which disagree at random."""
    votes = np.random.default_rng(1).integers(0, 2, (len(pairs.prompt), objectives)).astype(np.float32)
    return replace(pairs, labels=replace(pairs.labels, votes=votes, decided=np.ones_like(votes)))


def _ours(
    model: Model,
    params: Params,
    rollouts: Rollouts,
    pairs: Groups,
    groups_a_row: int,
    combiner: Combiner = Mixed(),  # noqa: B008
) -> Any:
    optimizer, schedule = OPTIMIZER.build(1000)
    step = jax.jit(make_step(view_of(model, LOSS), optimizer, schedule, combiner), donate_argnums=0)
    base = frozen(params)
    state = init_state(params, optimizer)
    zeros = np.zeros(pairs.responses.shape, np.float32)
    groups = RolledGroups(rollouts, pairs)
    plan = plan_rows(groups, groups_a_row)
    packed = pack(groups, plan.rows.reshape(-1), plan.shape, {"last": zeros, "anchor": zeros})
    batch: Batch = stack_microbatches([packed])

    def advance() -> float:
        nonlocal state
        state, metrics = step(state, base, {}, jax.device_put(batch))
        return float(metrics["loss"])

    return advance
