"""What a run has cost, and how much of that was kept, from perf.jsonl.

A place (iteration, phase, step) that was recorded more than once was computed more than once: a launch that was killed
goes on behind the last checkpoint, and what is deleted is made again. The last record is of what was kept; goodput is
its share. What a launch computed after its last record, and what it waited for before its first, nobody has measured.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxalign.storage.record import compute_seconds


@dataclass(frozen=True)
class Phase:
    """Seconds of all records of a phase, and how many there are."""

    name: str
    seconds: float
    records: int


@dataclass(frozen=True)
class Fits:
    """Of the optimizer steps that were kept: tokens, padding left out, a second and chip, over all steps (those that
    compile too) and the median of steps; share of cells that are padding; share of the time that a step waited for its
    batch, or less where that was hidden behind the step before."""

    steps: int
    tokens_per_s_per_chip: float
    median_tokens_per_s_per_chip: float
    padding: float
    waited: float


@dataclass(frozen=True)
class Cost:
    """Seconds of compute of all launches, of them `kept`, by phase, the longest first; what they come to in hours of
    single devices, None where a launch did not record how many it had. `fits` None where there were no steps."""

    seconds: float
    kept: float
    device_hours: float | None
    phases: tuple[Phase, ...]
    fits: Fits | None

    @property
    def goodput(self) -> float:
        """The share that was kept."""
        return self.kept / self.seconds if self.seconds else 1.0


def cost_of(perf: Sequence[Mapping[str, Any]]) -> Cost | None:
    """None where nothing was recorded."""
    if not perf:
        return None
    kept = {(line["iteration"], line["phase"], line["step"]): line for line in perf}
    names = dict.fromkeys(line["phase"] for line in perf)
    phases = [_phase(name, [line for line in perf if line["phase"] == name]) for name in names]
    steps = [line for line in kept.values() if "perf/step_seconds" in line]
    counted = all("perf/devices" in line for line in perf)
    return Cost(
        compute_seconds(perf),
        compute_seconds(kept.values()),
        sum(compute_seconds([line]) * line["perf/devices"] for line in perf) / 3600 if counted else None,
        tuple(sorted(phases, key=lambda each: -each.seconds)),
        _fits(steps) if steps else None,
    )


def _phase(name: str, lines: Sequence[Mapping[str, Any]]) -> Phase:
    return Phase(name, compute_seconds(lines), len(lines))


def _fits(steps: Iterable[Mapping[str, Any]]) -> Fits:
    names = ("perf/step_seconds", "perf/tokens_per_s_per_chip", "perf/padding_fraction", "perf/host_seconds")
    seconds, rates, padding, waited = np.array([[line.get(name, 0.0) for name in names] for line in steps]).T
    tokens, whole = seconds * rates, max(seconds.sum(), 1e-9)
    cells = tokens / np.maximum(1 - padding, 1e-9)
    return Fits(
        len(seconds),
        float(tokens.sum() / whole),
        float(np.median(rates)),
        float(1 - tokens.sum() / cells.sum()) if cells.sum() else 0.0,
        float(waited.sum() / whole),
    )
