"""What the same experiment comes to with several seeds: the spread of everything that its runs measure at their end."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from jaxalign.evals.intervals import beside, told
from jaxalign.storage import canonical, durable
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


def summarise_seeds(root: epath.Path, runs: Mapping[int, epath.Path]) -> str:
    """Writes seeds.json below `root`, of the finished `runs` by seed, and returns it as a table for a person: what the
    evals of the last policies say, and the checks of the fits, where there were any."""
    summaries = [json.loads((path / "summary.json").read_text()) for path in runs.values()]
    found = spread([{**each["evals"], **each.get("fits", {})} for each in summaries])
    content = canonical.to_json({"seeds": list(runs), "evals": found})
    with durable.storage_errors(root, len(content)):
        durable.write_file(root / "seeds.json", content)
    return table(found)


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The `spread` for a person; that of errors and of intervals' ends is for seeds.json alone."""
    shown = {name: each for name, each in sorted(found.items()) if not beside(name, found)}
    rows = [
        f"  {name:<40} {each['median']:.4g}  [{each['least']:.4g}, {each['most']:.4g}]" for name, each in shown.items()
    ]
    count = len(next(iter(found.values()))["values"]) if found else 0
    return "\n".join([f"Last policies of {count} seeds: median [least, most]", *rows])


def last_policies(runs: Mapping[str, Path]) -> str:
    """What the last policy of a run, or those of several seeds, are worth, from the summaries; says which have none."""
    finished = [path for path in runs.values() if (path / "summary.json").exists()]
    measured = [json.loads((path / "summary.json").read_text())["evals"] for path in finished]
    lines = [f"not finished yet: {name}" for name, path in runs.items() if path not in finished]
    if len(runs) > 1 and measured:
        lines.append(table(spread(measured)))
    elif measured:
        lines.append(f"Last policy:\n{told(measured[0])}")
    return "\n".join(lines)
