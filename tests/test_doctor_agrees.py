"""The doctor and the run say the same: what a run refuses before it computes is the doctor's finding, word for word."""

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import ClassVar

import optax
import pytest
from made_feedback import fed
from made_runs import tiny_lm

from jaxalign.config.resolved import dump
from jaxalign.data.prompts import JsonlPrompts
from jaxalign.doctor.examine import every_check, outcomes
from jaxalign.doctor.opened import Opened
from jaxalign.errors import JaxalignError
from jaxalign.experiment import Experiment
from jaxalign.rollouts.enumerate import Enumerate
from jaxalign.session import Session
from jaxalign.storage.record import Silent
from jaxalign.storage.rundir import open_run

CHECKS = ("batches", "lengths", "first_step")
"""Those that look at what a session looks at before it begins, the dearest last."""


def refused(experiment: Experiment, folder: pathlib.Path) -> str | None:
    """What a run says before it begins; None where it begins."""
    try:
        with open_run(folder / "run", dump(experiment)) as run:
            Session(experiment, run, Silent())
    except JaxalignError as error:
        return str(error)
    return None


def found(experiment: Experiment, folder: pathlib.Path, checks: Sequence[str]) -> Iterator[str]:
    """What the doctor says, who looks at eight prompts only, in findings or by not opening at all."""
    try:
        opened = Opened(experiment, folder, 8)
    except JaxalignError as error:
        yield str(error)
        return
    every = every_check()
    seen = (outcome for name in checks for outcome in outcomes(name, every[name], opened))
    yield from (outcome.fix for outcome in seen if outcome.status == "finding")


def asking(folder: pathlib.Path, *rows: dict) -> JsonlPrompts:
    """Prompts of a file."""
    file = folder / f"{len(list(folder.iterdir()))}.jsonl"
    file.write_text("".join(json.dumps({"prompt": "Why?", **row}) + "\n" for row in rows))
    return JsonlPrompts(str(file))


def with_prompts(folder: pathlib.Path, *rows: dict, options: tuple[str, ...] = ()) -> Experiment:
    return fed(tiny_lm(*options), prompts=asking(folder, *rows))


def heldout(folder: pathlib.Path, *rows: dict, **rollout) -> Experiment:
    experiment = tiny_lm()
    evaluation = dataclasses.replace(experiment.evaluation, prompts=asking(folder, *rows))
    if rollout:
        evaluation = dataclasses.replace(evaluation, rollout=dataclasses.replace(evaluation.rollout, **rollout))
    return dataclasses.replace(experiment, evaluation=evaluation)


LONG = {"id": "long", "prompt": "word " * 200}
TOOLS = {"tools": [{"type": "function", "function": {"name": "search", "description": "word " * 200}}]}
TOOL_TEMPLATE = (
    "{% if tools %}{{ tools[0].function.description }}{% endif %}"
    "{% for message in messages %}{{ message.content }}<|im_end|>{% endfor %}"
)
FEW = ("--feedback.prompts_per_iteration", "2", "--iterations", "1", "--swap_every", "none")

BAD = {
    "a long prompt": lambda folder: with_prompts(folder, {}, LONG),
    "a long prompt behind those that the doctor samples": lambda folder: with_prompts(
        folder, *({"prompt": f"Why {i}?"} for i in range(15)), LONG
    ),
    "a prompt longer than allowed": lambda folder: fed(
        with_prompts(folder, {}, {"prompt": "a little longer"}),
        rollout=dataclasses.replace(tiny_lm().feedback.rollout, max_prompt_tokens=25),
    ),
    "an answer as long as the context": lambda folder: tiny_lm("--feedback.rollout.max_tokens", "512"),
    "a long held-out prompt": lambda folder: heldout(folder, {}, LONG),
    "a held-out prompt longer than allowed": lambda folder: heldout(
        folder, {"prompt": "a little longer"}, max_prompt_tokens=25
    ),
    "a prompt that tools make long": lambda folder: dataclasses.replace(
        with_prompts(folder, {}, {"id": "with tools", **TOOLS}), model=Told(tiny_lm().model)
    ),
    "prompts of several lengths to a table's rollout": lambda folder: fed(
        with_prompts(folder, {}, {"prompt": "Longer?"}), rollout=Enumerate()
    ),
    "batches that the mesh does not divide": lambda folder: tiny_lm(
        "--fit.batch_size", "4", "--placement.mesh.fsdp", "8"
    ),
    "microbatches that the mesh does not divide": lambda folder: tiny_lm(
        "--placement.accumulate", "4", "--placement.mesh.fsdp", "4"
    ),
    "a mesh of more devices than there are": lambda folder: tiny_lm("--placement.mesh.fsdp", "16"),
    "a sampler that draws a token for all rows": lambda folder: fed(
        tiny_lm(), rollout=dataclasses.replace(tiny_lm().feedback.rollout, sampler=Same())
    ),
    "a loss that takes the mean": lambda folder: dataclasses.replace(tiny_lm(), loss=Mean()),
    "an optimizer without its schedule": lambda folder: dataclasses.replace(tiny_lm(), optimizer=Rateless()),
    "a prompts file that is not there": lambda folder: fed(
        tiny_lm(), prompts=JsonlPrompts(str(folder / "nowhere.jsonl"))
    ),
}

GOOD = {
    "as it is": lambda folder: tiny_lm(),
    "a long prompt that is never drawn": lambda folder: with_prompts(
        folder, *({"prompt": f"Why {i}?"} for i in range(9)), LONG, options=FEW
    ),
    "tools that the template leaves out": lambda folder: with_prompts(folder, {"id": "with tools", **TOOLS}),
}


@dataclasses.dataclass(frozen=True)
class Same:
    """A broken sampler."""

    def __call__(self, logits, keys):
        return logits.argmax()


@dataclasses.dataclass(frozen=True)
class Mean:
    """A broken loss."""

    needs: ClassVar[tuple[str, ...]] = ("last", "anchor")

    def __call__(self, logps):
        return logps.sums.mean()


@dataclasses.dataclass(frozen=True)
class Rateless:
    """A broken optimizer."""

    def build(self, steps):
        return optax.sgd(0.1), 0.1


@dataclasses.dataclass(frozen=True)
class Told:
    """A model whose template writes out tools."""

    source: object

    def open(self):
        model = self.source.open()
        return dataclasses.replace(model, chat=dataclasses.replace(model.chat, template=TOOL_TEMPLATE))


@pytest.mark.parametrize("case", BAD)
def test_what_a_run_refuses_is_a_finding(case, tmp_path):
    experiment = BAD[case](tmp_path)
    refusal = refused(experiment, tmp_path)
    assert refusal is not None
    assert refusal in found(experiment, tmp_path, CHECKS)


@pytest.mark.parametrize("case", GOOD)
def test_what_a_run_takes_is_no_finding(case, tmp_path):
    experiment = GOOD[case](tmp_path)
    assert refused(experiment, tmp_path) is None
    assert list(found(experiment, tmp_path, CHECKS[:2])) == []


def test_a_run_that_was_refused_for_its_prompts_begins_with_others(tmp_path):
    experiment = with_prompts(tmp_path, {}, LONG)
    assert "longer than" in refused(experiment, tmp_path)
    pathlib.Path(experiment.feedback.prompts.path).write_text('{"prompt": "Why?"}\n')
    assert refused(experiment, tmp_path) is None


@pytest.mark.parametrize(
    ("case", "remedy"),
    [("a long prompt", "lower max_tokens"), ("a prompt longer than allowed", "raise max_prompt_tokens")],
)
def test_prompts_that_are_too_long_are_refused_with_what_helps(case, remedy, tmp_path):
    assert refused(BAD[case](tmp_path), tmp_path).endswith(f"Shorten or remove them, or {remedy}")
