"""Small runs of `configs/tiny_lm.py`, made in this process, and what lies in run directories."""

import json
import pathlib
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxalign.align import align
from jaxalign.config.load import load, override, validate
from jaxalign.config.resolved import dump
from jaxalign.errors import Interrupted
from jaxalign.experiment import Experiment
from jaxalign.reopen import reopen
from jaxalign.session import Session
from jaxalign.storage import twice
from jaxalign.storage.record import Recorder, read_metrics
from jaxalign.storage.rundir import open_run, read_run
from jaxalign.types import Params

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"

SMALL = (
    *("--iterations", "2", "--swap_every", "1", "--feedback.prompts_per_iteration", "8"),
    *("--feedback.rollout.samples", "3", "--feedback.rollout.max_tokens", "8", "--evaluation.rollout.max_tokens", "8"),
    *("--evaluation.prompts.limit", "8", "--fit.batch_size", "8", "--fit.checkpoint_every", "1"),
    *("--placement.rollout_rows", "12", "--placement.mesh.fsdp", "1"),
)


LAUNCHES = 40
"""More than any small run needs: one that takes as many does not get on."""


def tiny_lm(*overrides: str) -> Experiment:
    """Two iterations, a swap after each, on one device."""
    return override(override(load(CONFIGS / "tiny_lm.py"), SMALL), overrides)


def run_here(
    experiment: Experiment, workdir: pathlib.Path, stop_requested: Callable[[], bool] = lambda: False
) -> dict[str, Any]:
    """Runs, or continues, in this process; returns the summary."""
    validate(experiment)
    with open_run(workdir, dump(experiment)) as run:
        return align(Session(experiment, run, Recorder(run.path), stop_requested))


def policy(workdir: pathlib.Path, number: int) -> Params:
    """A committed policy, frozen parameters included, placed as the run was."""
    run = reopen(workdir)
    return run.machine().params(run.directory.policy(number))


def lines_of(workdir: pathlib.Path, phase: str) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that a phase has written."""
    return [line for line in read_metrics(workdir) if line["phase"] == phase]


def write_config(run: pathlib.Path, text: str) -> None:
    """Another config.json, as if the run had been begun with it: the copy of the right one would count."""
    twice.delete(twice.epath.Path(run / "config.json"))
    (run / "config.json").write_text(text)


class Patience:
    """Lets a launch pass some of the points where it may be stopped, and stops it at the next."""

    def __init__(self, questions: int):
        self._left = questions

    def __call__(self) -> bool:
        self._left -= 1
        return self._left < 0


def run_stopping(experiment: Experiment, workdir: pathlib.Path, questions: int) -> int:
    """Runs to the end, stopped in each launch at its question number `questions` + 1; returns how often that was."""
    for stops in range(LAUNCHES):
        try:
            run_here(experiment, workdir, Patience(questions))
            return stops
        except Interrupted:
            continue
    raise AssertionError(f"{LAUNCHES} launches did not get to the end")


def same_when_stopped(experiment: Experiment, home: pathlib.Path, questions: int, least: int = 2) -> None:
    """Asserts that a run which is stopped again and again, at `least` so many times, ends with the metrics, to the
    byte, and the last policy, to the bit, of one that is not; they lie in `home`/whole and `home`/stopped."""
    run_here(experiment, home / "whole")
    assert run_stopping(experiment, home / "stopped", questions) >= least
    whole, stopped = (home / name for name in ("whole", "stopped"))
    assert (whole / "metrics.jsonl").read_bytes() == (stopped / "metrics.jsonl").read_bytes()
    last = experiment.iterations
    jax.tree.map(np.testing.assert_array_equal, policy(stopped, last), policy(whole, last))


def content(workdir: pathlib.Path) -> dict[str, bytes]:
    """Every file that the config determines, Orbax's own excepted (it stamps times)."""
    skipped = re.compile(r"(^|/)(policy|fit|datasets|lock|perf\.jsonl|\.?summary\.json(\.copy)?)(/|$)")
    files = (path for path in workdir.rglob("*") if path.is_file())
    return {name: path.read_bytes() for path in files if not skipped.search(name := str(path.relative_to(workdir)))}


def assert_same_run(one: pathlib.Path, other: pathlib.Path):
    first, second = content(one), content(other)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    numbers = read_run(one).policies()
    assert numbers == read_run(other).policies()
    for number in numbers:
        for a, b in zip(*(jax.tree.leaves(policy(path, number)) for path in (one, other)), strict=True):
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    summaries = [json.loads((workdir / "summary.json").read_text()) for workdir in (one, other)]
    for summary in summaries:
        del summary["seconds"], summary["peak_memory_gib"]
    assert summaries[0] == summaries[1]
