"""A run directory by hand, without a policy and without training: what reports read of one."""

import datetime
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
from made_runs import tiny_lm

from jaxalign.config.resolved import dump
from jaxalign.evaluate import Votes
from jaxalign.storage import pinned
from jaxalign.storage.inputs import Input
from jaxalign.storage.record import Recorder, compute_seconds, read_perf
from jaxalign.storage.rundir import home, open_run
from jaxalign.types import Prompt, Rollouts

PROMPTS = ("first", "second", "third", "fourth")
RATES = (0.5, 0.625, 0.71875)
VOTES = np.linspace(0.05, 0.95, 4 * 2 * 2).reshape(4, 2, 2)
FIT = ({"loss": 4.0, "rewards/margins": 0.0}, {"loss": 3.0, "rewards/margins": float("nan")})
CERTIFICATES = {
    "align/anchor_kl_nats": 0.25,
    "align/expanding": 0.5,
    "align/inner_gap": 0.1,
    "align/inner_gap_corrected": 0.0625,
    "align/inner_gap_stderr": 0.125,
    "align/rotating": 0.25,
    "align/contraction": 1.5,
    "align/round_kl": 0.375,
}
LOST = 7.0
"""Seconds of a step that was made again."""


def evals(number: int, shift: float = 0.0) -> dict[str, float]:
    rate = RATES[number] + shift
    ends = {"win_rate/vs_base_ci95_low": rate - 0.125, "win_rate/vs_base_ci95_high": rate + 0.125}
    return {"win_rate/vs_base": rate, **ends, "drift/kl_from_base_nats": 0.1 * number, "text/tokens": 8.0}


def answers(texts: Sequence[str], prompts: Sequence[str]) -> Rollouts:
    """The same two answers to every prompt."""
    b, m = len(prompts), len(texts)
    return Rollouts(
        tuple(Prompt(f"p{i}", ({"role": "user", "content": text},)) for i, text in enumerate(prompts)),
        (tuple(texts),) * b,
        np.ones((b, 1), np.int32),
        np.ones(b, np.int32),
        np.ones((b, m, 1), np.int32),
        np.ones((b, m), np.int32),
        np.ones((b, m), bool),
        np.zeros((b, m, 1), np.float32),
        np.full((b, m), 1 / m, np.float32),
    )


def made_run(
    path: pathlib.Path,
    *overrides: str,
    finished: int = 2,
    shift: float = 0.0,
    prompts: Sequence[str] = PROMPTS,
    base: str = "a base",
    last: str = "a last",
    place: str = "train.jsonl",
    measured: Callable[[int, float], dict[str, float]] = evals,
) -> pathlib.Path:
    """A run of two iterations, `finished` of which are complete, whose win rates are higher by `shift`, or what else is
    `measured` of a policy."""
    experiment = tiny_lm(*overrides)
    with open_run(path, dump(experiment)) as run:
        read = (Input("feedback.prompts", "", place, "ab" * 32),)
        pinned.pin(run, None, pinned.Pinned(datetime.date(2026, 11, 29), read, {"jaxalign": "1.2.3"}))
        recorder = Recorder(run.path, devices=lambda: 4)
        for number in range(finished + 1):
            if number:
                recorder.log(number - 1, "certificates", 0, CERTIFICATES)
                for step, metrics in enumerate(FIT):
                    recorder.log(number - 1, "fit", step, metrics)
                    speed = {"perf/tokens_per_s_per_chip": 10.0, "perf/padding_fraction": 0.5, "perf/host_seconds": 0.5}
                    for seconds in (*([LOST] if step and number == 1 else []), 2.0):
                        recorder.perf(number - 1, "fit", step, {"perf/step_seconds": seconds, **speed})
            texts = (base, "another base") if number == 0 else (last, "another last")
            run.phase(home(number), "heldout", lambda texts=texts: answers(texts, prompts), Rollouts)
            recorder.perf(home(number), "heldout", 0, {"perf/seconds": 1.5})
            found = measured(number, shift if number else 0.0)
            run.phase(home(number), "evals", lambda found=found: found, dict[str, float])
            recorder.log(home(number), "evals", 0, found)
        if finished == 2:
            votes = Votes(("brevity", "coverage"), VOTES, np.stack([VOTES**2, VOTES**3], 1))
            run.phase(home(2), "votes", lambda: votes, Votes)
            rates = {"policies": ["base", "iterate-1"], "row_beats_column": [[0.5, 0.28125], [0.71875, 0.5]]}
            seconds = compute_seconds(read_perf(run.path))
            costs = {"seconds": seconds, "peak_memory_gib": 1.375, "device_kind": "TPU v5"}
            run.write_summary({"evals": found, "win_rates": rates, "samples": [], **costs})
    return path
