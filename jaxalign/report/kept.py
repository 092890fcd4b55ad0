"""What runs have measured, as a file: enough to make their table again where the runs are not.

    {arm: {seed: {"metrics": {name: number}, "answered": null or {"prompts": [...], "values": {name: {"values": [...],
    "effective": number}}}}}}

So runs of several machines, or of days between which a machine was lost, come into one table; and a judge is asked once
about the answers of a run.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxalign.errors import ConfigError, DataError
from jaxalign.evals.intervals import ByPrompt
from jaxalign.report.by_prompt import Answered
from jaxalign.report.evidence import Measured
from jaxalign.storage import canonical


def encoded(arms: Mapping[str, Measured]) -> bytes:
    """The file's bytes; what is not finished is left out."""
    return canonical.to_json({name: _runs(arm) for name, arm in arms.items() if arm.metrics})


def decoded(path: Path) -> dict[str, Measured]:
    """Arms of a file. DataError naming the file and the place of what is not as `encoded` writes it."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: holds no arms by their names")
    return {name: _arm(f"{path}: {name}", runs) for name, runs in found.items()}


def remembered(there: Mapping[str, Measured], before: Mapping[str, Measured]) -> dict[str, Measured]:
    """A directory's arms, and what its file said `before` of runs that are not in it any more, finished or not."""
    found = dict(there)
    for name, arm in before.items():
        now = found.get(name, Measured({}, {}))
        gone = {seed for seed in arm.metrics if seed not in now.metrics and f"seed-{seed}" not in now.unfinished}
        kept = Measured(
            {seed: each for seed, each in arm.metrics.items() if seed in gone},
            {seed: each for seed, each in arm.answered.items() if seed in gone},
        )
        found[name] = _joined(now, kept)
    return found


def together(sources: Mapping[str, Mapping[str, Measured]]) -> dict[str, Measured]:
    """Arms of several sources, by their names. ConfigError where two of them have one seed of one arm."""
    found: dict[str, Measured] = {}
    origin: dict[tuple[str, int], str] = {}
    for source, arms in sources.items():
        for name, arm in arms.items():
            for seed in arm.metrics:
                if (first := origin.setdefault((name, seed), source)) != source:
                    raise ConfigError(f"{name}, seed {seed}, is in {first} and in {source}: leave one of them out")
            found[name] = _joined(found[name], arm) if name in found else arm
    return found


def _joined(one: Measured, other: Measured) -> Measured:
    """Two sources' runs of an arm, by seed."""
    metrics = dict(sorted({**one.metrics, **other.metrics}.items()))
    there = {f"seed-{seed}" for seed in metrics}
    unfinished = tuple(name for name in one.unfinished + other.unfinished if name not in there)
    return Measured(metrics, {**one.answered, **other.answered}, unfinished)


def _runs(arm: Measured) -> dict[str, Any]:
    return {
        str(seed): {"metrics": dict(metrics), "answered": _answers(arm.answered.get(seed))}
        for seed, metrics in arm.metrics.items()
    }


def _answers(found: Answered | None) -> dict[str, Any] | None:
    if found is None:
        return None
    values = {
        name: {"values": [float(value) for value in each.values], "effective": each.effective}
        for name, each in found.values.items()
    }
    return {"prompts": list(found.prompts), "values": values}


def _arm(where: str, runs: Any) -> Measured:
    try:
        seeds = {int(seed): run for seed, run in runs.items()}
        metrics = {
            seed: {str(name): float(each) for name, each in run["metrics"].items()} for seed, run in seeds.items()
        }
        there = {seed: run["answered"] for seed, run in seeds.items() if run["answered"] is not None}
        return Measured(dict(sorted(metrics.items())), {seed: _answered(each) for seed, each in there.items()})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{where}: is not what `jaxalign evidence` writes: {error!r}") from error


def _answered(found: Mapping[str, Any]) -> Answered:
    prompts: Sequence[str] = tuple(map(str, found["prompts"]))
    values = {
        name: ByPrompt(np.array(each["values"], np.float64), float(each["effective"]))
        for name, each in found["values"].items()
    }
    if wrong := [name for name, each in values.items() if each.values.shape != (len(prompts),)]:
        raise ValueError(f"{', '.join(wrong)}: not a number for each of {len(prompts)} prompts")
    return Answered(tuple(prompts), values)
