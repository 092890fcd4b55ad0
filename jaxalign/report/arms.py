"""The arms of a comparison as they lie in a directory: each a run, or the runs of several seeds of one config."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etils import epath

from jaxalign.errors import ConfigError
from jaxalign.report.seeds import measured
from jaxalign.storage import durable, twice
from jaxalign.storage.claim import read_config
from jaxalign.storage.record import read_metrics, read_summary
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
    found = (
        {path.name: arm_at(path.name, _runs(path)) for path in sorted(root.iterdir()) if _runs(path)}
        if root.is_dir()
        else {}
    )
    if not found:
        raise ConfigError(f"{root}: holds no runs; its directories should be runs, or of `jaxalign train --seeds`")
    return found


def _runs(path: Path) -> list[Path]:
    """The runs of an arm: itself, or those of its seeds; none in a directory of something else."""
    there = [path] if _there(path, "config.json") else sorted(path.glob("seed-*"))
    return [each for each in there if _there(each, "config.json")]


def arm_at(name: str, runs: Sequence[Path]) -> Arm:
    """The arm of these runs."""
    done = [each for each in runs if _there(each, "summary.json")]
    seeds = {int(read_config(epath.Path(each)).get("seed", 0)): each for each in done}
    return Arm(name, dict(sorted(seeds.items())), tuple(each.name for each in runs if each not in done))


def measured_in(path: Path) -> Metrics:
    """All that a finished run has measured of its last policy and of its fits, errors and ends of intervals too."""
    return measured_by(read_summary(path), read_metrics(path))


def measured_by(summary: Mapping[str, Any], lines: Iterable[Mapping[str, Any]]) -> Metrics:
    """The same, of what a run's summary.json and metrics.jsonl say."""
    found = measured(summary)
    for line in lines:
        if line["phase"] == "unseen" and {"fit/heldout_loss", "fit/heldout_loss_before"} <= line.keys():
            name = f"{FIT}{line['iteration'] + 1}"
            found[name] = line["fit/heldout_loss"] - line["fit/heldout_loss_before"]
            if "fit/heldout_change_stderr" in line:
                found[f"{name}_stderr"] = line["fit/heldout_change_stderr"]
    return found


def _there(run: Path, name: str) -> bool:
    """Whether a run has one of the files that are kept twice."""
    return twice.there(durable.absolute(run) / name)
