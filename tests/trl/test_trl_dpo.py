"""DPO beside TRL's on real pairs: the same weights, token ids, order, steps and hyper-parameters, both in fp32.

`make test-trl` makes an environment of TRL's own and names its Python in TRL_PYTHON. What is compared: the loss of the
first step, before anything has moved; the losses of all steps, which then part by the rounding of two backward passes;
held-out accuracy. The data lie beside the checkout, as those of other tests do.
"""

import gzip
import json
import os
import pathlib
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from jaxalign.align import align
from jaxalign.bench.pairs import handed, ids
from jaxalign.config.resolved import dump
from jaxalign.data.comparisons.by_prompt import ByPrompt
from jaxalign.data.comparisons.pairs import Pairs
from jaxalign.data.tables.file import File
from jaxalign.evals.pairs import HeldOutPairs
from jaxalign.experiment import Evaluation, Experiment
from jaxalign.feedback.recorded import Recorded
from jaxalign.losses.dpo import DPO
from jaxalign.machine import Placement
from jaxalign.mesh.sharding import MeshShape
from jaxalign.models.pretrained import SmolLM2
from jaxalign.session import Session
from jaxalign.storage.record import Recorder, read_metrics
from jaxalign.storage.rundir import open_run
from jaxalign.training.optim import AdamW, WarmupLinear
from jaxalign.training.step import Fit

# Both sides are made before the first test: half an hour on two busy cores.
pytestmark = [pytest.mark.trl, pytest.mark.timeout(5400)]

DATA = pathlib.Path(__file__).parents[3] / "shared" / "data"
STEPS, BATCH, RATE, BETA = int(os.environ.get("TRL_STEPS", "50")), 2, 1e-5, 0.1
HELD_OUT = int(os.environ.get("TRL_HELD_OUT", "64"))
LONGEST = 1000
"""Characters of a pair, prompt and both answers: so that a step takes seconds on two cores."""


@dataclass(frozen=True)
class Sides:
    """What both sides found: losses by step, held-out accuracy after the fit, ours with its interval."""

    ours: list[float]
    theirs: list[float]
    accuracy: float
    interval: tuple[float, float]
    their_accuracy: float


def hh() -> Iterator[Mapping[str, str]]:
    """Dialogues of one question, as a prompt and two answers."""
    with gzip.open(DATA / "hh-rlhf" / "harmless-base.test.jsonl.gz", "rt") as file:
        for line in file:
            found = [json.loads(line)[name].split("\n\nAssistant:") for name in ("chosen", "rejected")]
            asked = [each[0].removeprefix("\n\nHuman:").strip() for each in found]
            answers = [each[1].strip() for each in found if len(each) == 2]
            if len(answers) == 2 and asked[0] == asked[1] and all(answers):
                yield {"prompt": asked[0], "chosen": answers[0], "rejected": answers[1]}


def tldr() -> Iterator[Mapping[str, str]]:
    """Posts with the summary that the judge found likelier to be better in front."""
    with gzip.open(DATA / "discopop-tldr" / "prompts.jsonl.gz", "rt") as file:
        posts = {row["prompt_id"]: row["prompt"] for row in map(json.loads, file)}
    with gzip.open(DATA / "discopop-tldr" / "pairs.jsonl.gz", "rt") as file:
        for row in map(json.loads, file):
            both = [row["output_1"], row["output_2"]]
            chosen, rejected = both[:: -1 if row["p2"] > 0.5 else 1]
            yield {"prompt": posts[row["prompt_id"]], "chosen": chosen, "rejected": rejected}


def experiment(file: pathlib.Path) -> Experiment:
    source = Pairs(File(str(file)))
    return Experiment(
        model=SmolLM2(),
        feedback=Recorded(ByPrompt(source, 0.2, 1.0), ByPrompt(source, 0.0, 0.2), pairs_per_iteration=STEPS * BATCH),
        loss=DPO(beta=BETA),
        optimizer=AdamW(WarmupLinear(peak=RATE, warmup=0.0)),
        fit=Fit(batch_size=BATCH, checkpoint_every=1000),
        iterations=1,
        swap_every=None,
        evaluation=Evaluation(evals=(HeldOutPairs(),)),
        placement=Placement(mesh=MeshShape(fsdp=1)),
    )


@pytest.fixture(scope="module", params=[hh, tldr], ids=["hh", "tldr"])
def sides(request, tmp_path_factory) -> Sides:
    python = os.environ.get("TRL_PYTHON")
    if not python:
        pytest.skip("TRL_PYTHON names no Python with TRL: `make test-trl`")
    if not DATA.is_dir():
        pytest.skip(f"{DATA} is not there")
    home = tmp_path_factory.mktemp(request.param.__name__)
    short = [row for row in request.param() if sum(map(len, row.values())) <= LONGEST]
    # some answers a prompt, many prompts: a fifth of them is held out
    (home / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in short[: 5 * HELD_OUT]))
    spec = experiment(home / "pairs.jsonl")
    with open_run(home / "run", dump(spec)) as run:
        session = Session(spec, run, Recorder(run.path))
        train, _ = handed(session, home / "model")
        held = session.heldout_pairs
        heldout = ids(held, np.arange(len(held)))
        align(session)
    asked = {"train": train, "heldout": heldout, "steps": STEPS, "batch_size": BATCH, "learning_rate": RATE}
    asked |= {"warmup_steps": 0, "beta": BETA, "clip": 1.0, "threads": os.cpu_count()}
    (home / "asked.json").write_text(json.dumps(asked))
    script = pathlib.Path(__file__).with_name("peer_dpo.py")
    command = [python, str(script), str(home / "model"), str(home / "asked.json"), str(home / "told.json")]
    subprocess.run(command, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""})
    told = json.loads((home / "told.json").read_text())
    return compared(read_metrics(home / "run"), told)


def compared(lines: list[dict[str, Any]], told: dict[str, Any]) -> Sides:
    ours = [line["loss"] for line in lines if line["phase"] == "fit"]
    evals = next(line for line in lines if line["phase"] == "evals" and line["iteration"] == 0)
    ends = evals["heldout/accuracy_ci95_low"], evals["heldout/accuracy_ci95_high"]
    theirs = told["heldout"][1]["rewards/accuracies"]
    return Sides(ours, told["losses"], evals["heldout/accuracy"], ends, theirs)


def test_the_first_step_has_the_same_loss(sides):
    assert sides.ours[0] == pytest.approx(np.log(2), abs=1e-6)
    assert sides.ours[0] == pytest.approx(sides.theirs[0], abs=1e-5)


def test_losses_part_by_rounding_only(sides):
    assert len(sides.ours) == len(sides.theirs) == STEPS
    apart = np.abs(np.subtract(sides.ours, sides.theirs))
    print(f"\nlosses apart: second step {apart[1]:.2e}, median {np.median(apart):.2e}, most {apart.max():.2e}")
    assert apart[1] < 1e-4
    assert np.median(apart) < 5e-3


def test_held_out_accuracies_lie_in_each_others_interval(sides):
    low, high = sides.interval
    print(f"\nheld-out accuracy {sides.accuracy:.3f} [{low:.3f}, {high:.3f}], TRL's {sides.their_accuracy:.3f}")
    assert low <= sides.their_accuracy <= high
