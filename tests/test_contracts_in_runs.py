"""A run refuses components that break their contracts before it commits what they returned."""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from made_broken import Optimizer
from made_feedback import fed
from made_runs import run_here, tiny_lm

from jaxalign.align import align
from jaxalign.config.load import load, override
from jaxalign.config.resolved import dump
from jaxalign.errors import BrokenContract
from jaxalign.losses.dpo import DPO
from jaxalign.pairs import AllPairs
from jaxalign.session import Session
from jaxalign.storage.record import Recorder
from jaxalign.storage.rundir import open_run
from jaxalign.types import Preferences


@dataclasses.dataclass(frozen=True)
class Wrong:
    """An oracle that is sure beyond certainty."""

    def __call__(self, rollouts, key):
        prefer = np.full((*rollouts.lengths.shape, rollouts.lengths.shape[1]), 1.7, np.float32)
        return Preferences(("wrong",), (1.0,), prefer, prefer[:, None], scores=None)


@dataclasses.dataclass(frozen=True)
class Mean:
    """A loss that returns the mean."""

    needs: ClassVar[tuple[str, ...]] = ("anchor",)

    def __call__(self, logps):
        return DPO()(logps).mean()


@dataclasses.dataclass(frozen=True)
class Twice:
    """A pairing of responses that are not there."""

    def __call__(self, rollouts, preferences, key):
        found = AllPairs()(rollouts, preferences, key)
        return dataclasses.replace(found, responses=found.responses + 1)


@dataclasses.dataclass(frozen=True)
class Undefined:
    """An eval whose mean is one of nothing."""

    needs: ClassVar[tuple[str, ...]] = ()

    def __call__(self, context):
        return {"mine/mean": float("nan")}


def run(path: Path, **changes: Any) -> None:
    table = load(Path(__file__).parents[1] / "configs" / "games" / "three_action.py")
    feedback = dataclasses.replace(table.feedback, **changes.pop("feedback", {}))
    short = override(table, ("--iterations", "1", "--swap_every", "none"))
    experiment = dataclasses.replace(short, feedback=feedback, **changes)
    with open_run(path, dump(experiment)) as opened:
        align(Session(experiment, opened, Recorder(opened.path)))


@pytest.mark.parametrize(
    ("changes", "sentence", "absent"),
    [
        ({"feedback": {"oracle": Wrong()}}, r"oracle Wrong: prefer: P\(0 ≻ 0\) .* is 1.7", "initial/evals"),
        ({"loss": Mean()}, r"loss Mean: must return one value a group", "initial"),
        ({"optimizer": Optimizer(None)}, r"optimizer Optimizer: build must return", "initial"),
        ({"feedback": {"pairing": Twice()}}, r"pairing Twice: responses.* is 3, not within \[0, 2\]", "0000/groups"),
    ],
)
def test_a_run_refuses_before_it_commits(tmp_path, changes, sentence, absent):
    with pytest.raises(BrokenContract, match=sentence):
        run(tmp_path, **changes)
    assert not (tmp_path / absent).exists()


def test_a_run_refuses_an_eval_that_is_undefined(tmp_path):
    table = load(Path(__file__).parents[1] / "configs" / "games" / "three_action.py")
    evaluation = dataclasses.replace(table.evaluation, evals=(*table.evaluation.evals, Undefined()))
    with pytest.raises(BrokenContract, match="eval Undefined: mine/mean must be a finite float, got nan"):
        run(tmp_path, evaluation=evaluation)
    assert not (tmp_path / "initial" / "evals").exists()


@dataclasses.dataclass(frozen=True)
class Prompts:
    """A source that opens to what it is given."""

    opens: Any

    def open(self, cache):
        return self.opens


@pytest.mark.parametrize(("opens", "got"), [(None, "a NoneType"), (("Why?",), "a tuple")])
def test_a_prompt_source_that_opens_to_nothing_is_refused_by_name(tmp_path, opens, got):
    """Where they are trained on, and where they are held out: there, nothing would look as if nobody asked."""
    says = f"prompts Prompts: open must return a PromptSet, got {got}"
    made = tiny_lm()
    held = dataclasses.replace(made, evaluation=dataclasses.replace(made.evaluation, prompts=Prompts(opens)))
    for number, experiment in enumerate((fed(made, prompts=Prompts(opens)), held)):
        with pytest.raises(BrokenContract) as refused:
            run_here(experiment, tmp_path / str(number))
        assert str(refused.value) == says
