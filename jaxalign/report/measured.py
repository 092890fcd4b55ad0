"""The duality gap that a run has measured of its iterates, drawn: for games whose policies are no tables."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxalign.errors import ConfigError
from jaxalign.models.tabular import TabularPolicy
from jaxalign.reopen import reopen
from jaxalign.report.games import gap_against_steps
from jaxalign.storage.record import read_metrics


def runs_of(path: Path, config: str | None = None) -> dict[str, Path]:
    """The runs in a directory by their names: those of several seeds, or the run that it is. Empty where that is one of
    a tabular policy, whose trajectory is drawn instead. `config` as for `reopen`."""
    seeds = {each.name: each for each in sorted(path.glob("seed-*"))}
    if not seeds and isinstance(reopen(path, config).experiment.model, TabularPolicy):
        return {}
    return seeds or {"this run": path}


def draw_measured(runs: Mapping[str, Path], out: Path) -> list[Path]:
    """Writes the figure into `out` and returns its files. ConfigError where a run has measured no gap."""
    gaps: dict[str, np.ndarray] = {}
    for name, path in runs.items():
        measured = [line["nash/gap"] for line in read_metrics(path) if "nash/gap" in line]
        if not measured:
            raise ConfigError(
                f"{path}: measures no nash/gap, so there is no figure of it (evals NashGap and ExactNash do)"
            )
        gaps[name] = np.array(measured)
    longest = max(map(len, gaps.values()))
    # From 1 on: the axis is logarithmic.
    table = {name: np.pad(each, (0, longest - len(each)), constant_values=np.nan) for name, each in gaps.items()}
    return gap_against_steps(np.arange(1.0, longest + 1), table, out, xlabel="iterate, the base being 1", floor=1e-8)
