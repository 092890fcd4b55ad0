"""What a plan expects beside what others have measured on chips, of steps of the same shape.

Each case is a published measurement: model, rows, chips and what is computed are those that it was made with, the
program is ours. Nothing of the estimate was fitted to these: the share of the peak that it reckons with is the median
of other published steps (`plan/chips.json`). Compiles with libtpu; no chip is needed.
"""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxalign.config.overrides import refuse
from jaxalign.data.comparisons.alone import Alone
from jaxalign.data.comparisons.pairs import Pairs
from jaxalign.data.tables.inline import Inline
from jaxalign.experiment import Evaluation, Experiment
from jaxalign.feedback.recorded import Recorded
from jaxalign.losses.anchored import APOAlone
from jaxalign.losses.dpo import DPO
from jaxalign.machine import Placement
from jaxalign.mesh.sharding import MeshShape
from jaxalign.models.pretrained import Pretrained
from jaxalign.models.releases import LLAMA3_8B
from jaxalign.plan.chips import chip, topology
from jaxalign.plan.compiled import Compiled, compile_program
from jaxalign.plan.kept import kept_in
from jaxalign.plan.lowered import programs
from jaxalign.plan.target import machine_of, sizes_of
from jaxalign.references.live import Live
from jaxalign.training.optim import AdamW, WarmupLinear
from jaxalign.training.step import Fit

HELP = "plans beside published measurements of steps of the same shape"

LENGTH = 4096
"""Tokens of a sequence in the DPO steps; a row of ours holds both sequences of a pair behind one prompt."""


@dataclass(frozen=True)
class Published:
    """A measurement on chips."""

    what: str
    experiment: Callable[[], Experiment]
    program: str
    tokens_per_s_per_chip: float
    source: str


def _llama(**changes: Any) -> Experiment:
    return Experiment(
        model=Pretrained("llama3-8b", compute_dtype="bfloat16", shape=LLAMA3_8B),
        optimizer=AdamW(WarmupLinear(peak=1e-6)),
        iterations=1,
        swap_every=None,
        evaluation=Evaluation(evals=()),
        **changes,
    )


def dpo() -> Experiment:
    """Full fine-tuning by 128 pairs of 4,096 tokens, a live reference, on 16 chips of v5p; layers recomputed."""
    prompt, response = 32, LENGTH - 16
    return _llama(
        feedback=Recorded(pairs=Pairs(Inline(())), max_prompt_tokens=prompt, max_tokens=response),
        loss=DPO(),
        reference=Live(),
        fit=Fit(batch_size=128),
        placement=Placement(MeshShape(fsdp=16), "v5p:2x2x4", remat="full", score_batch_size=512),
    )


def lone() -> Experiment:
    """Full fine-tuning on lone answers: 3 rows of 8,192 tokens a chip of v6e, 256 chips, as pre-training has them."""
    prompt, rows, chips = 32, 3, 256
    return _llama(
        feedback=Recorded(pairs=Alone(Pairs(Inline(()))), max_prompt_tokens=prompt, max_tokens=2 * LENGTH - prompt),
        loss=APOAlone(),
        fit=Fit(batch_size=rows * chips),
        placement=Placement(MeshShape(fsdp=chips), "v6e:16x16", remat="full"),
    )


CASES = {
    "dpo": Published(
        "DPO of 8B, 128 pairs of 4,096, 16 v5p", dpo, "train", 128 * 2 * LENGTH / 16 / 15.4, "Marin: 15.4 s a step"
    ),
    "scoring": Published(
        "log-probs of 8B, 512 pairs of 4,096, 16 v5p",
        dpo,
        "logp",
        512 * 2 * LENGTH / 16 / 13.4,
        "Marin: 13.4 s a batch of evaluation with cached references",
    ),
    "lone": Published(
        "training of 8B, rows of 8,192, 256 v6e", lone, "train", 7032.0, "pre-training of 8B on v6e: 7,032 to 7,247"
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which cases, and where compilers' results are kept."""
    parser.add_argument("--cases", default=",".join(CASES), metavar="A,B,…", help=f"default: {','.join(CASES)}")
    parser.add_argument("--kept", metavar="DIR", help="folder of compilers' results, as of plan")


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row a case: tokens/s/chip as published, and of our program what the range allows and expects."""
    chosen = args.cases.split(",")
    refuse(f"--cases: there is no {name!r}, but {', '.join(CASES)}" for name in chosen if name not in CASES)
    return [measure(CASES[name], args.kept) for name in chosen]


def measure(case: Published, kept: str | None) -> dict[str, Any]:
    """One case compiled, or read from what is kept."""
    experiment = case.experiment()
    target = topology(experiment.placement.topology)
    print(f"compiling {case.program} for {target.name}", file=sys.stderr, flush=True)
    machine = machine_of(experiment, target)
    found = programs(experiment, machine, sizes_of(experiment, machine.model))
    program = next(each for each in found if each.name == case.program)
    known = chip(target.generation)
    made = compile_program(program, machine.model, target, known, machine.flags, kept_in(kept, os.environ))
    row: dict[str, Any] = {"what": case.what, "published": case.tokens_per_s_per_chip, "source": case.source}
    if not isinstance(made, Compiled):
        return {**row, "too_large": made.reason}
    tokens, (bound, expected) = made.tokens / target.chips, made.estimate.range
    return {
        **row,
        "bound": tokens / bound,
        "expected": tokens / expected,
        "scheduled": tokens / made.estimate.scheduled_seconds,
        "within": tokens / expected <= case.tokens_per_s_per_chip <= tokens / bound,
        "seconds": [bound, made.estimate.scheduled_seconds, expected],
        "tflops_a_chip": made.flops / 1e12,
        "model_tflops_a_chip": made.model_flops / target.chips / 1e12,
        "peak_gib": made.memory.peak / 2**30,
        "ici_seconds": made.estimate.ici_seconds,
        "compile_seconds": made.compile_seconds,
    }
