"""Small runs of `configs/tiny_lm.py`, made in this process, and what lies in run directories."""

import pathlib
from collections.abc import Callable
from typing import Any

from jaxalign.align import align
from jaxalign.config.load import load, override, validate
from jaxalign.config.resolved import dump
from jaxalign.experiment import Experiment
from jaxalign.reopen import reopen
from jaxalign.session import Session
from jaxalign.storage.record import Recorder
from jaxalign.storage.rundir import open_run
from jaxalign.types import Params

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"

SMALL = (
    *("--iterations", "2", "--swap_every", "1", "--feedback.prompts_per_iteration", "8"),
    *("--feedback.rollout.samples", "3", "--feedback.rollout.max_tokens", "8", "--evaluation.rollout.max_tokens", "8"),
    *("--evaluation.prompts.limit", "8", "--fit.batch_size", "8", "--fit.checkpoint_every", "1"),
    *("--placement.rollout_rows", "12", "--placement.mesh.fsdp", "1"),
)


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


class Patience:
    """Lets a launch pass some of the points where it may be stopped, and stops it at the next."""

    def __init__(self, questions: int):
        self._left = questions

    def __call__(self) -> bool:
        self._left -= 1
        return self._left < 0
