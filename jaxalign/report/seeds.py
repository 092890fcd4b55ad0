"""What the same experiment comes to with several seeds: the spread of everything that its runs measure at their end."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from jaxalign.errors import CheckpointError
from jaxalign.evals.intervals import beside, told
from jaxalign.report.summary import mixed
from jaxalign.storage import canonical, durable, twice
from jaxalign.storage.record import read_summary
from jaxalign.types import Metrics


def spread(measured: Sequence[Metrics]) -> dict[str, dict[str, Any]]:
    """Of every metric that all runs have: its values in the order of the runs, median, least and most, mean and, of two
    or more, standard deviation.

    Least and most of n runs hold the median of all seeds between them with a probability of 1 - 2^(1 - n), whatever the
    distribution: 94 % of five.
    """
    names = [name for name in measured[0] if all(name in each for each in measured)]
    return {name: _spread([each[name] for each in measured]) for name in names}


def _spread(values: list[float]) -> dict[str, Any]:
    table = np.array(values, np.float64)
    told = {"median": float(np.median(table)), "least": float(np.min(table)), "most": float(np.max(table))}
    told["mean"] = float(table.mean())
    if len(values) > 1:
        told["deviation"] = float(table.std(ddof=1))
    return {"values": values, **told}


def measured(summary: Mapping[str, Any]) -> Metrics:
    """What a run's summary says of its last policy by the evals, and of its fits where they were checked."""
    return {**summary["evals"], **summary.get("fits", {})}


def summarise_seeds(root: epath.Path, runs: Mapping[int, epath.Path]) -> str:
    """Writes seeds.json below `root`, of the finished `runs` by seed, and returns it as a table for a person: what the
    evals of the last policies say, and the checks of the fits, where there were any."""
    found = [measured(read_summary(path)) for path in runs.values()]
    content = canonical.to_json({"seeds": list(runs), "evals": spread(found)})
    with durable.storage_errors(root, len(content)):
        durable.write_file(root / "seeds.json", content)
    return table(found)


def table(runs: Sequence[Metrics]) -> str:
    """The `spread` for a person; that of errors and of intervals' ends is for seeds.json alone."""
    found, count = spread(runs), len(runs)
    shown = {name: each for name, each in sorted(found.items()) if not beside(name, found)}
    lines = [f"Last policies of {count} seeds: median [least, most]"]
    lines += [
        f"  {name:<40} {each['median']:.4g}  [{each['least']:.4g}, {each['most']:.4g}]" for name, each in shown.items()
    ]
    if count > 1:
        chance = 100 * (1 - 2 ** (1 - count))
        lines.append(f"The median of all seeds lies between least and most with a chance of {chance:.1f} %.")
    if missing := sorted({name for each in runs for name in each} - set(found)):
        lines.append(f"Not measured by every run, and left out: {', '.join(missing)}")
    return "\n".join(lines)


def last_policies(runs: Mapping[str, Path]) -> str:
    """What the last policy of a run, or those of several seeds, are worth, from the summaries; says which have none,
    and which were made by several versions."""
    finished, lines = {}, []
    for name, path in runs.items():
        try:
            if twice.there(durable.absolute(path) / "summary.json"):
                finished[name] = read_summary(path)
            else:
                lines.append(f"not finished yet: {name}")
        except CheckpointError as error:
            lines.append(f"{name}: {error}")
    found = [measured(each) for each in finished.values()]
    if len(runs) > 1 and found:
        lines.append(table(found))
    elif found:
        lines.append(f"Last policy:\n{told(found[0])}")
    lines += [f"{name}: {mixed(each['versions'])}" for name, each in finished.items() if "versions" in each]
    return "\n".join(lines)
