"""What a finished run's answers to the held-out prompts say, prompt by prompt: for intervals and differences that go
over several runs.

A run keeps its answers and the means of what was said of them, not what was said: its judge is asked again, once;
`report.kept` has what it says. A judge that needs devices gets those that are here.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np

from jaxalign.errors import DataError
from jaxalign.evals.context import iterate_name
from jaxalign.evals.intervals import ByPrompt
from jaxalign.evals.side_by_side import joint_preferences
from jaxalign.evals.win_rate import rates_by_prompt
from jaxalign.evaluate import answers_of
from jaxalign.judging import judging
from jaxalign.reopen import Run
from jaxalign.storage import canonical
from jaxalign.types import Metrics, Prompt

CLOSE = 1e-3
"""By how much a judge of another machine may differ in a rate."""


@dataclass(frozen=True)
class Answered:
    """The held-out prompts, and metrics as one number a prompt, whose mean each of them is."""

    prompts: tuple[str, ...]
    """what they are, as `named` says"""
    values: dict[str, ByPrompt]


def answered(run: Run, metrics: Metrics) -> Answered | None:
    """Those of the last policy that are among what the run measured, `metrics`; None where nothing was answered.

    Raises DataError where they do not come to what the run measured: another judge answers now.
    """
    if run.experiment.evaluation.rollout is None:
        return None
    last = iterate_name(run.experiment.iterations)
    answers = answers_of(run.directory, (0, run.experiment.iterations))
    pair = (answers[last], answers["base"])
    finished = np.asarray(pair[0].finished.mean(1))
    values = {"text/finished": ByPrompt(finished, float(len(finished)))}
    judge = run.experiment.judge
    if judge is not None and "win_rate/vs_base" in metrics:
        run.check_judges()
        machine = run.machine()
        with judging(judge, machine.site, machine.placement.judge_block_size) as asked:
            preferences = joint_preferences(asked, pair, machine.key("evals", 0))
        values |= {f"{kind}/vs_base": each for kind, each in rates_by_prompt(preferences, pair).items()}
    values = {name: each for name, each in values.items() if name in metrics}
    for name, each in values.items():
        if abs(each.values.mean() - metrics[name]) > CLOSE:
            raise DataError(
                f"{run.directory.path}: {name} was {metrics[name]:.4f} when the run asked its judge, and is "
                f"{each.values.mean():.4f} now"
            )
    return Answered(tuple(map(named, pair[0].prompts)), values)


def named(prompt: Prompt) -> str:
    """A prompt's id, and a digest of all that is asked in it."""
    return f"{prompt.id} {canonical.sha256(canonical.to_json(dataclasses.asdict(prompt)))[:16]}"
