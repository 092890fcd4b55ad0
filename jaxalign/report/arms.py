"""The arms of a comparison as they lie in a directory: each a run, or the runs of several seeds of one config."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jaxalign.errors import ConfigError
from jaxalign.report.seeds import measured
from jaxalign.storage.record import read_metrics
from jaxalign.types import Metrics

FIT = "fit/heldout_change/"
"""What the change of a fit's loss on pairs that it has not seen is called: of fit 1 `fit/heldout_change/1`, …"""

OF_FITS = "fits/"
"""What that of all fits of a run together begins with."""


@dataclass(frozen=True)
class Arm:
    """Finished runs of one config by their seeds, and the names of those that are not finished."""

    name: str
    runs: Mapping[int, Path]
    unfinished: tuple[str, ...]


def arms_of(root: Path) -> dict[str, Arm]:
    """Those in a directory, by name. ConfigError where there is none."""
    found = {path.name: _arm(path) for path in sorted(root.iterdir()) if _runs(path)} if root.is_dir() else {}
    if not found:
        raise ConfigError(f"{root}: holds no runs; its directories should be runs, or of `jaxalign train --seeds`")
    return found


def _runs(path: Path) -> list[Path]:
    """The runs of an arm: itself, or those of its seeds; none in a directory of something else."""
    there = [path] if (path / "config.json").exists() else sorted(path.glob("seed-*"))
    return [each for each in there if (each / "config.json").exists()]


def _arm(path: Path) -> Arm:
    runs = _runs(path)
    done = [each for each in runs if (each / "summary.json").exists()]
    seeds = {int(json.loads((each / "config.json").read_text())["seed"]): each for each in done}
    return Arm(path.name, dict(sorted(seeds.items())), tuple(each.name for each in runs if each not in done))


def measured_in(path: Path) -> Metrics:
    """All that a finished run has measured of its last policy and of its fits, errors and ends of intervals too."""
    found = measured(json.loads((path / "summary.json").read_text()))
    for line in read_metrics(path):
        if line["phase"] == "unseen":
            name = f"{FIT}{line['iteration'] + 1}"
            found[name] = line["fit/heldout_loss"] - line["fit/heldout_loss_before"]
            if "fit/heldout_change_stderr" in line:
                found[f"{name}_stderr"] = line["fit/heldout_change_stderr"]
    return found
