"""DPO on a config's own pairs beside TRL's trainer: the same model, token ids, pairs of each step and AdamW.

Ours is a run of the config, its rows as it lays them, with references cached before. TRL trains chosen and rejected as
rows of their own, padded to the longest of a batch, its references cached too. Sides take turns, a process each; rates
are of the steps behind the first two for whose shape nothing is compiled in our run, the same on both sides, and the
median of the rounds. The first losses are ln 2 on both sides.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from jaxalign.bench.peers import processes
from jaxalign.bench.trl import NEEDS, UNTIMED
from jaxalign.config.numbers import Whole
from jaxalign.config.overrides import refuse

if TYPE_CHECKING:
    import numpy as np

    from jaxalign.data.groups import TrainingGroups
    from jaxalign.experiment import Experiment
    from jaxalign.session import Session
    from jaxalign.training.row_rule import Laid

HELP = "DPO steps on a config's own pairs, beside TRL's trainer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which pairs, how many steps, and the Python that has TRL."""
    parser.add_argument("config", metavar="CONFIG", help="config of DPO on recorded pairs, of all parameters")
    parser.add_argument("--steps", type=Whole(), default=8, help=f"timed steps, behind {UNTIMED} others (default 8)")
    parser.add_argument("--rounds", type=Whole(), default=3, help="of both sides by turns (default 3)")
    parser.add_argument(
        "--their-batch", type=Whole(), help="pairs that TRL computes together, of a step's (default: all of them)"
    )
    parser.add_argument("--trl-python", default=sys.executable, metavar="PYTHON", help="with TRL (default: this one)")
    parser.add_argument("--limit-s", type=Whole(), default=1800, help="seconds of a side in a round (default 1800)")


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row a side: pairs/s (median, least and most of the rounds), steps that count and their seconds, first loss,
    rate over TRL's."""
    experiment = asked_of(args.config, args.steps)
    pairs = experiment.fit.batch_size
    together = args.their_batch or pairs
    if pairs % together:
        refuse([f"--their-batch {together}: must divide the {pairs} pairs of a step"])
    sides: dict[str, list[dict[str, Any]]] = {"jaxalign": [], "TRL": []}
    absent = processes.missing(args.trl_python, NEEDS)
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory(prefix="jaxalign-bench-") as folder:
            ours = {"config": args.config, "steps": args.steps, "folder": folder}
            command = [sys.executable, "-m", "jaxalign.bench.pairs", json.dumps(ours)]
            sides["jaxalign"].append(processes.told(command, float(args.limit_s)))
            if absent or "skipped" in sides["jaxalign"][-1]:
                sides["TRL"].append({"skipped": absent or "needs what our side writes"})
                continue
            theirs = {
                **{"model": f"{folder}/model", "train": f"{folder}/train.json", "steps": args.steps, "pairs": together},
                **{"accumulate": pairs // together, "reference": "cached", "liger": False},
                **{"dtype": getattr(experiment.model, "compute_dtype", "float32"), "remat": "none"},
            }
            command = [args.trl_python, str(processes.here("trl_dpo.py")), json.dumps(theirs)]
            environment = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
            sides["TRL"].append(processes.told(command, float(args.limit_s), environment))
    return told(Path(args.config).stem, pairs, sides)


def told(name: str, pairs: int, sides: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The rows of what the rounds of each side found."""
    rows, counted = [], sides["jaxalign"][0].get("counted", [])
    for side, rounds in sides.items():
        row: dict[str, Any] = {"config": name, "implementation": side, "pairs": pairs}
        if skipped := [found for found in rounds if "skipped" in found]:
            rows.append(row | skipped[0])
            continue
        took = [sum(found["seconds"][step] for step in counted) for found in rounds]
        rates = sorted(pairs * len(counted) / seconds for seconds in took)
        row |= {"backend": rounds[0]["backend"], "pairs_per_s": median(rates), "least": rates[0], "most": rates[-1]}
        rows.append({**row, "steps": len(counted), "seconds": median(took), "first_loss": rounds[0]["first_loss"]})
    rates_of = {row["implementation"]: row.get("pairs_per_s") for row in rows}
    if rates_of["jaxalign"] and rates_of["TRL"]:
        rows[0]["over_trl"] = rates_of["jaxalign"] / rates_of["TRL"]
    return rows


def asked_of(path: str, steps: int) -> "Experiment":
    """The experiment of a config with a fit of so many steps behind the untimed ones, and nothing else. ConfigError
    where it is no DPO on recorded pairs, has adapters, or takes steps of as many pairs as a prompt happens to have."""
    from jaxalign.bench.rows import recorded_in
    from jaxalign.errors import ConfigError
    from jaxalign.experiment import Evaluation
    from jaxalign.feedback.recorded import Recorded
    from jaxalign.losses.dpo import DPO
    from jaxalign.models.lora import LoRA

    found = recorded_in(path, None, None)
    if not isinstance(found.loss, DPO) or isinstance(found.model, LoRA):
        raise ConfigError(f"{path}: TRL's side trains all parameters by DPO, and this does not")
    if found.fit.rows.groups > 1:
        raise ConfigError(f"{path}: a step has as many pairs as its prompt, and TRL's have equally many")
    count, feedback = (steps + UNTIMED) * found.fit.batch_size, found.feedback
    assert isinstance(feedback, Recorded), "see recorded_in"
    return dataclasses.replace(
        found,
        feedback=dataclasses.replace(feedback, pairs_per_iteration=count),
        fit=dataclasses.replace(
            found.fit, epochs=1, evaluate_every=None, keep="last", patience=None, checkpoint_every=1_000_000
        ),
        iterations=1,
        evaluation=Evaluation(evals=()),
    )


def ids(groups: "TrainingGroups", numbers: "np.ndarray") -> list[dict[str, list[int]]]:
    """The token ids of the groups so numbered, as TRL names them."""
    taken = groups.take(numbers)
    prompts = [row[:length].tolist() for row, length in zip(taken.prompt, taken.prompt_lengths, strict=True)]
    answers = [
        [row[:length].tolist() for row, length in zip(rows, lengths, strict=True)]
        for rows, lengths in zip(taken.tokens, taken.lengths, strict=True)
    ]
    return [
        {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}
        for prompt, (chosen, rejected) in zip(prompts, answers, strict=True)
    ]


def handed(session: "Session", model: Path) -> tuple[list[dict[str, list[int]]], list["Laid"]]:
    """What TRL's side trains on: pairs of the first fit's steps in their order, and the rows that ours lays for each
    step. The base policy is exported to `model`."""
    from jaxalign.exchange.export import export
    from jaxalign.programs import steps_of

    policy = session.policy(0)
    export(session.machine.model, policy, model)
    groups = session.compared(0, policy).groups
    order, steps = steps_of(session.experiment, session.machine, 0, groups)
    laid = [steps[step] for step in range(len(order))]
    return [pair for numbers, _ in laid for pair in ids(groups, numbers[numbers >= 0])], laid


# --------------------------------------------------------------------------------------------------------------
# Our side, in its own process


def measured(asked: dict[str, Any]) -> dict[str, Any]:
    """A run of the experiment: seconds of its steps, and which count. Beside them the model and the pairs of all steps,
    in their order, for TRL's side."""
    import jax

    from jaxalign.align import align
    from jaxalign.config.resolved import dump
    from jaxalign.session import Session
    from jaxalign.storage.record import Recorder, read_metrics, read_perf
    from jaxalign.storage.rundir import open_run

    spec, home = asked_of(asked["config"], asked["steps"]), Path(asked["folder"])
    with open_run(home / "run", dump(spec)) as run:
        session = Session(spec, run, Recorder(run.path))
        pairs, laid = handed(session, home / "model")
        (home / "train.json").write_text(json.dumps(pairs))
        align(session)
    shapes = [(numbers.shape, shape) for numbers, shape in laid]
    lines = [line for line in read_perf(home / "run") if line["phase"] == "fit"]
    return {
        "backend": f"jax {jax.__version__} {jax.devices()[0].device_kind}",
        "seconds": [line["perf/step_seconds"] for line in lines],
        "counted": [step for step in range(UNTIMED, len(shapes)) if shapes[step] in shapes[:step]],
        "first_loss": next(line["loss"] for line in read_metrics(home / "run") if line["phase"] == "fit"),
    }


if __name__ == "__main__":
    print(json.dumps(measured(json.loads(sys.argv[1]))))
