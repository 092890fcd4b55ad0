"""What the same experiment comes to with several seeds: the spread of everything that its runs measure at their end."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

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
    told = {"median": float(np.median(table)), "least": float(table.min()), "most": float(table.max())}
    told["mean"] = float(table.mean())
    if len(values) > 1:
        told["deviation"] = float(table.std(ddof=1))
    return {"values": values, **told}


def summarise_seeds(root: epath.Path, runs: Mapping[int, epath.Path]) -> str:
    """Writes seeds.json below `root`, of the finished `runs` by seed, and returns it as a table for a person: what the
    evals of the last policies say, and the checks of the fits, where there were any."""
    summaries = [json.loads((path / "summary.json").read_text()) for path in runs.values()]
    measured = [{**each["evals"], **each.get("fits", {})} for each in summaries]
    told = spread(measured)
    content = canonical.to_json({"seeds": list(runs), "evals": told})
    with durable.storage_errors(root, len(content)):
        durable.write_file(root / "seeds.json", content)
    rows = [
        f"  {name:<40} {each['median']:.4g}  [{each['least']:.4g}, {each['most']:.4g}]"
        for name, each in sorted(told.items())
    ]
    return "\n".join([f"Last policies of {len(runs)} seeds: median [least, most]", *rows])
