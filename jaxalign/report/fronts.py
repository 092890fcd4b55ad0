"""What methods reach between objectives: the front of each over its settings, and its hypervolume over seeds.

A method's cells are arms of one name but for what stands behind "@", as `jaxalign sweep` calls them. Each seed has a
front of its own, and a hypervolume: their mean comes with Student's interval over seeds, which takes the held-out pairs
as given. All are measured from one reference, the least of each objective that any cell of any seed came to, so that
they can be compared with one another and not with those of another directory.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxalign.errors import ConfigError
from jaxalign.report.arms import Arm, measured_in
from jaxalign.report.crossed import over_seeds
from jaxalign.report.games import pyplot, save
from jaxalign.report.hypervolume import hypervolume, on_front

MARGINS = "heldout/margin_nats/objective_"
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


def fronts(arms: Mapping[str, Arm], metrics: Sequence[str] = ()) -> dict[str, Any]:
    """For hypervolume.json: each method's hypervolume with its interval, that of every seed, and its cells' points.

    ConfigError for metrics that some finished run has not measured, or that are not two or three.
    """
    found = {(name, seed): measured_in(path) for name, arm in arms.items() for seed, path in arm.runs.items()}
    if not found:
        raise ConfigError("no run is finished yet")
    wanted = list(metrics) or margins_in(next(iter(found.values())))
    if not LIMITS[0] <= len(wanted) <= LIMITS[1]:
        raise ConfigError(f"fronts are of two or three metrics, got {', '.join(wanted) or 'none'}")
    for (name, seed), measured in found.items():
        if missing := [metric for metric in wanted if metric not in measured]:
            raise ConfigError(f"{name}, seed {seed}: has not measured {', '.join(missing)}")
    table: Table = {}
    for (name, seed), measured in found.items():
        method, _, setting = name.partition("@")
        point = np.array([measured[metric] for metric in wanted], np.float64)
        table.setdefault(method, {}).setdefault(setting, {})[seed] = point
    reference = np.min([[measured[metric] for metric in wanted] for measured in found.values()], axis=0)
    return {
        "metrics": wanted,
        "reference": reference.tolist(),
        "unfinished": {name: list(arm.unfinished) for name, arm in arms.items() if arm.unfinished},
        "methods": {method: _method(cells, reference) for method, cells in table.items()},
    }


def _method(cells: Mapping[str, Mapping[int, np.ndarray]], reference: np.ndarray) -> dict[str, Any]:
    """Of seeds that all cells have: a front that lacks a cell would be a smaller one."""
    seeds = sorted(set.intersection(*(set(points) for points in cells.values())))
    volumes = [hypervolume(np.array([points[seed] for points in cells.values()]), reference) for seed in seeds]
    found = over_seeds(volumes)
    means = np.array([np.mean([*points.values()], axis=0) for points in cells.values()])
    return {
        "seeds": seeds,
        "hypervolume": float(np.mean(volumes)) if volumes else None,
        "ci95": None if found is None else [found.low, found.high],
        "of_each_seed": volumes,
        "cells": {
            setting: {
                "mean": mean.tolist(),
                "on_front": bool(kept),
                "points": {str(seed): point.tolist() for seed, point in points.items()},
            }
            for (setting, points), mean, kept in zip(cells.items(), means, on_front(means), strict=True)
        },
    }


def told(found: Mapping[str, Any]) -> str:
    """The methods by their hypervolume, for a person."""
    lines = [f"Hypervolume of {', '.join(found['metrics'])}, above {[round(each, 4) for each in found['reference']]}"]
    ordered = sorted(found["methods"].items(), key=lambda item: -(item[1]["hypervolume"] or 0.0))
    for method, each in ordered:
        if each["hypervolume"] is None:
            lines.append(f"  {method:<24} no seed has all its cells yet")
            continue
        low_high = "" if each["ci95"] is None else "  [{:.4g}, {:.4g}]".format(*each["ci95"])
        counts = f"seeds {len(each['seeds'])}, cells {len(each['cells'])}"
        lines.append(f"  {method:<24} {each['hypervolume']:.4g}{low_high}  {counts}")
    lines += [f"not finished yet: {name}: {', '.join(runs)}" for name, runs in found["unfinished"].items()]
    return "\n".join(lines)


def drawn(found: Mapping[str, Any], into: Path) -> list[Path]:
    """pareto.png and pareto.svg: every run as a dot, the means of a method's cells joined along its front. Of three
    objectives each pair has a panel, and fronts are those of the three."""
    metrics = found["metrics"]
    panels = [(i, j) for i in range(len(metrics)) for j in range(i + 1, len(metrics))]
    figure, axes = pyplot().subplots(1, len(panels), figsize=(3.4 * len(panels), 3.0), squeeze=False)
    for number, (method, each) in enumerate(found["methods"].items()):
        color = f"C{number}"
        points = np.array([point for cell in each["cells"].values() for point in cell["points"].values()])
        front = np.array([cell["mean"] for cell in each["cells"].values() if cell["on_front"]])
        for axis, (i, j) in zip(axes[0], panels, strict=True):
            axis.plot(points[:, i], points[:, j], ".", color=color, alpha=0.35, ms=4)
            order = np.argsort(front[:, i])
            axis.plot(front[order, i], front[order, j], "o-", color=color, ms=4, lw=1, label=method)
    for axis, (i, j) in zip(axes[0], panels, strict=True):
        axis.set_xlabel(metrics[i])
        axis.set_ylabel(metrics[j])
    axes[0][0].legend(frameon=False)
    return save(figure, into, "pareto")
