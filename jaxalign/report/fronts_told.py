"""Fronts between objectives for a person: as lines, and drawn."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxalign.report.games import pyplot, save


def told(found: Mapping[str, Any]) -> str:
    """The methods by their hypervolume, the differences of any two, and what intervals cover; `found` by `fronts`."""
    named = ", ".join(metric + (" above the base's" if metric in found["gains"] else "") for metric in found["metrics"])
    start = [float(f"{each:.4g}") for each in found["reference"]]
    whence = "as given" if found["reference_given"] else "the least of all runs here"
    lines = [f"Hypervolume of {named}, from the reference {start} ({whence})"]
    ordered = sorted(found["methods"].items(), key=lambda item: -(item[1]["hypervolume"] or 0.0))
    lines += [f"  {method:<24} {_volume(each)}" for method, each in ordered]
    if found["differences"]:
        lines += ["Differences, paired by seed", *_differences(found["differences"])]
    lines.append(
        "Intervals are at 95 % each, over seeds: of these held-out pairs, and of this reference. Runs that are not "
        "above the reference in every objective add nothing."
    )
    lines += [
        f"fronts are of different settings: {method} lacks {', '.join(settings)}"
        for method, settings in found["lacking"].items()
    ]
    lines += [f"not finished yet: {name}: {', '.join(runs)}" for name, runs in found["unfinished"].items()]
    return "\n".join(lines)


def _volume(each: Mapping[str, Any]) -> str:
    point = ", a single point" if each["single_point"] else ""
    if each["hypervolume"] is None:
        return f"no seed has all its cells yet{point}"
    counts = f"seeds {len(each['seeds'])}, cells {len(each['cells'])}{point}"
    above = f"{each['runs_above_reference']} of {each['runs']} runs above the reference"
    return f"{each['hypervolume']:.4g}{_ends(each['ci95'])}  {counts}; {above}"


def _differences(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for each in found:
        pair = f"{each['method']} - {each['above']}"
        if each["mean"] is None:
            yield f"  {pair:<36} no seed in common"
        else:
            yield f"  {pair:<36} {each['mean']:+.4g}{_ends(each['ci95'])}  seeds {len(each['seeds'])}"


def _ends(interval: Sequence[float] | None) -> str:
    return "" if interval is None else "  [{:.4g}, {:.4g}]".format(*interval)


def drawn(found: Mapping[str, Any], into: Path) -> list[Path]:
    """pareto.png and pareto.svg: every run as a dot, the means of a method's cells joined along its front. Of three
    objectives each pair has a panel, and fronts are those of the three."""
    metrics = found["metrics"]
    panels = [(i, j) for i in range(len(metrics)) for j in range(i + 1, len(metrics))]
    figure, axes = pyplot().subplots(1, len(panels), figsize=(3.4 * len(panels), 3.0), squeeze=False)
    for number, (method, each) in enumerate(found["methods"].items()):
        color = f"C{number}"
        points = [point for cell in each["cells"].values() for point in cell["points"].values()]
        front = [cell["mean"] for cell in each["cells"].values() if cell["on_front"]]
        if not points:  # nothing of it is finished
            continue
        dots, means = np.array(points), np.array(front)
        for axis, (i, j) in zip(axes[0], panels, strict=True):
            axis.plot(dots[:, i], dots[:, j], ".", color=color, alpha=0.35, ms=4)
            order = np.argsort(means[:, i])
            axis.plot(means[order, i], means[order, j], "o-", color=color, ms=4, lw=1, label=method)
    labels = [metric + ("\nabove the base's" if metric in found["gains"] else "") for metric in metrics]
    for axis, (i, j) in zip(axes[0], panels, strict=True):
        axis.set_xlabel(labels[i])
        axis.set_ylabel(labels[j])
    axes[0][0].legend(frameon=False)
    return save(figure, into, "pareto")
