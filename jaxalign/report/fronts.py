"""What methods reach between objectives: the front of each over its settings, its hypervolume, and how far any two of
them are apart, over seeds.

A method's cells are arms of one name but for what stands behind "@", as `jaxalign sweep` calls them. Each seed has a
front of its own, and a hypervolume: their mean comes with Student's interval over seeds, which takes the held-out pairs
and the reference as given. Of two methods the volumes are compared seed by seed.

Held-out margins are taken as gains over the base: where a loss has no anchor they are of log π, and what the base
itself comes to is subtracted, so that they are of log π/π_base as all others are (whose base has 0 exactly). Where the
anchor is swapped within a run, margins are of the last one.

All are measured from one reference: one that is given, or the least of each objective that any cell of any seed came
to. The latter moves with what lies in the directory, and a single bad cell moves it far.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxalign.errors import ConfigError
from jaxalign.report.arms import Arm, measured_in
from jaxalign.report.crossed import over_seeds
from jaxalign.report.hypervolume import hypervolume, on_front
from jaxalign.storage.record import read_metrics
from jaxalign.storage.rundir import home
from jaxalign.types import Metrics

OF_MARGINS = "heldout/margin_nats"
"""What metrics begin with that are compared as gains over the base."""
MARGINS = f"{OF_MARGINS}/objective_"
"""What is compared where nobody names metrics: held-out margins of every objective."""
LIMITS = (2, 3)
"""Objectives of a front."""

Table = dict[str, dict[str, dict[int, Float[np.ndarray, " o"]]]]
"""Method → setting → seed → point."""


def measures_objectives(arms: Mapping[str, Arm]) -> bool:
    """Whether every arm has finished runs, and all of them have measured the same two or three objectives apart."""
    runs = [[margins_in(measured_in(path)) for path in arm.runs.values()] for arm in arms.values()]
    same = {tuple(names) for arm in runs for names in arm}
    return all(runs) and len(same) == 1 and LIMITS[0] <= len(next(iter(same))) <= LIMITS[1]


def margins_in(metrics: Iterable[str]) -> list[str]:
    """Those of the objectives."""
    return sorted(name for name in metrics if name.startswith(MARGINS) and name.removeprefix(MARGINS).isdecimal())


def fronts(arms: Mapping[str, Arm], metrics: Sequence[str] = (), reference: Sequence[float] = ()) -> dict[str, Any]:
    """For hypervolume.json: each method's hypervolume with its interval, that of every seed, and its cells' points; the
    differences of any two methods; the reference, and whether it was given; which metrics are gains over the base.

    `lacking` are settings that some method has and another one lacks, by the latter's name. Methods without settings,
    whose front is a point, lack none. ConfigError for metrics that some finished run has not measured, of its last
    policy or of its base, for such as are not two or three, and for a reference of another length.
    """
    runs = [(name, seed, path) for name, arm in arms.items() for seed, path in arm.runs.items()]
    if not runs:
        raise ConfigError("no run is finished yet")
    wanted = list(metrics) or margins_in(measured_in(runs[0][2]))
    if not LIMITS[0] <= len(wanted) <= LIMITS[1]:
        raise ConfigError(f"fronts are of two or three metrics, got {', '.join(wanted) or 'none'}")
    if reference and len(reference) != len(wanted):
        raise ConfigError(f"the reference has {len(reference)} numbers, and the front is of {', '.join(wanted)}")
    table: Table = {}
    for name in arms:  # cells without a finished run too
        method, _, setting = name.partition("@")
        table.setdefault(method, {})[setting] = {}
    for name, seed, path in runs:
        method, _, setting = name.partition("@")
        table[method][setting][seed] = _point(f"{name}, seed {seed}", path, wanted)
    points = [point for cells in table.values() for seeds in cells.values() for point in seeds.values()]
    start = np.array(reference, np.float64) if reference else np.min(points, axis=0)
    methods = {method: _method(cells, start) for method, cells in table.items()}
    return {
        "metrics": wanted,
        "gains": [metric for metric in wanted if metric.startswith(OF_MARGINS)],
        "reference": start.tolist(),
        "reference_given": bool(reference),
        "unfinished": {name: list(arm.unfinished) for name, arm in arms.items() if arm.unfinished},
        "lacking": lacking(table),
        "methods": methods,
        "differences": differences(methods),
    }


def _point(who: str, path: Path, metrics: Sequence[str]) -> Float[np.ndarray, " o"]:
    """What a run's last policy came to, margins as gains over its base."""
    last, base = measured_in(path), base_of(path)
    if missing := [metric for metric in metrics if metric not in last]:
        raise ConfigError(f"{who}: has not measured {', '.join(missing)}")
    gains = [metric for metric in metrics if metric.startswith(OF_MARGINS)]
    if missing := [metric for metric in gains if metric not in base]:
        raise ConfigError(f"{who}: has not measured {', '.join(missing)} of its base, over which margins are gains")
    return np.array([last[metric] - (base[metric] if metric in gains else 0.0) for metric in metrics], np.float64)


def base_of(path: Path) -> Metrics:
    """What a run's evals have measured of its base; empty where they are not recorded."""
    lines = (line for line in read_metrics(path) if line["phase"] == "evals" and line["iteration"] == home(0))
    return {name: value for name, value in next(lines, {}).items() if name not in ("iteration", "phase", "step")}


def lacking(table: Table) -> dict[str, list[str]]:
    """Settings that a method lacks and another one has, of methods that have settings at all."""
    settings = {method: set(cells) - {""} for method, cells in table.items() if set(cells) != {""}}
    every = set[str]().union(*settings.values())
    return {method: sorted(every - own) for method, own in settings.items() if every - own}


def _method(cells: Mapping[str, Mapping[int, np.ndarray]], reference: np.ndarray) -> dict[str, Any]:
    """Of seeds that all cells have: a front that lacks a cell would be a smaller one, and a cell that is there and not
    finished has none."""
    seeds = sorted(set.intersection(*(set(points) for points in cells.values())))
    volumes = [hypervolume(np.array([points[seed] for points in cells.values()]), reference) for seed in seeds]
    done = {setting: np.mean([*points.values()], axis=0) for setting, points in cells.items() if points}
    kept = dict(zip(done, on_front(np.array([*done.values()])).tolist(), strict=True)) if done else {}
    runs = [point for points in cells.values() for point in points.values()]
    return {
        "seeds": seeds,
        "hypervolume": float(np.mean(volumes)) if volumes else None,
        "ci95": _interval(volumes),
        "of_each_seed": volumes,
        "single_point": len(cells) == 1,
        "runs": len(runs),
        "runs_above_reference": sum(bool((point > reference).all()) for point in runs),
        "cells": {
            setting: {
                "mean": done[setting].tolist() if points else None,
                "on_front": kept.get(setting, False),
                "points": {str(seed): point.tolist() for seed, point in points.items()},
            }
            for setting, points in cells.items()
        },
    }


def differences(methods: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """By how much the hypervolume of one method is above that of another, for any two that have one: paired by the
    seeds they have in common. The mean is None where these are none; each interval is at 95 % by itself."""
    volumes = {name: dict(zip(each["seeds"], each["of_each_seed"], strict=True)) for name, each in methods.items()}
    found = []
    for one, other in itertools.combinations([name for name, of_seeds in volumes.items() if of_seeds], 2):
        seeds = sorted(volumes[one].keys() & volumes[other].keys())
        values = [volumes[one][seed] - volumes[other][seed] for seed in seeds]
        found.append(
            {
                "method": one,
                "above": other,
                "seeds": seeds,
                "mean": float(np.mean(values)) if values else None,
                "ci95": _interval(values),
                "of_each_seed": values,
            }
        )
    return found


def _interval(values: Sequence[float]) -> list[float] | None:
    """Ends over seeds; None where these say nothing of their spread."""
    found = over_seeds(values)
    return None if found is None else [found.low, found.high]
