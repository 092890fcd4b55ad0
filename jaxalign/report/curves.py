"""Every metric of one or several runs as a small curve, in coordinates of an SVG: for pages, whose colours they take.

The axis is that of iterations, the same in all charts: policy k stands at k, what is said of iteration i before its fit
at i, and step s of its S steps at i + (s + 1) / S. Where the anchor moved is marked.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxalign.evals.intervals import BESIDE, beside
from jaxalign.report.account import PLACE, Account

WIDTH, HEIGHT = 320, 130
"""Of a chart, and of the part of it that is drawn in."""
LEFT, RIGHT, TOP, BOTTOM = 6, 6, 8, 18

BUCKETS = 200
"""Stretches of a longer curve of each of which the least and the greatest are drawn."""

NAMED = 8
"""So many moves of an anchor are named one by one to who does not see the chart; of more the number and the ends."""

DECADES = 1e3
"""From this ratio of the greatest to the least on, all of them positive, the axis is logarithmic."""

HEADINGS = {
    "evals": "What the policies are worth",
    "certificates": "Certificates of each iteration",
    "fit": "Steps of the fits",
    "heldout": "Held-out pairs within the fits",
    "unseen": "Fits on pairs that they have not seen",
    "align": "What each iteration was trained on",
    "speed": "Speed of the fits",
}
"""Phases by their headings, in order; others follow by their names."""


@dataclass(frozen=True)
class Line:
    """A run's curve: `values` at `at`, both in their own units; `path` and `band` in the SVG's; band "" for none."""

    run: int
    at: Float[np.ndarray, " t"]
    values: Float[np.ndarray, " t"]
    path: str
    band: str
    left_out: int


@dataclass(frozen=True)
class Mark:
    """Where an anchor moved: `x` in the SVG's units, `at` in iterations; of run `run`, None where it is all of them."""

    x: float
    at: int
    run: int | None


@dataclass(frozen=True)
class Chart:
    """A metric's curves, where anchors moved, the ends of its axis, and the last iteration of the other."""

    name: str
    lines: tuple[Line, ...]
    marks: tuple[Mark, ...]
    low: float
    high: float
    logarithmic: bool
    longest: float

    def described(self, names: Sequence[str]) -> str:
        """What the chart shows, for those who do not see it."""
        each = [
            f"{names[line.run]} from {line.values[0]:.4g} at {line.at[0]:.4g} to {line.values[-1]:.4g} at "
            f"{line.at[-1]:.4g}, least {line.values.min():.4g}, most {line.values.max():.4g}"
            + (f", {line.left_out} not finite and left out" if line.left_out else "")
            for line in self.lines
        ]
        return ". ".join([f"{self.name} against iterations: {'; '.join(each)}", *self._moves(names)])

    def _moves(self, names: Sequence[str]) -> Iterator[str]:
        """What the dashed lines say: where the anchor of all runs moves, then those of single runs."""
        for run in dict.fromkeys(mark.run for mark in self.marks):
            places = [mark.at for mark in self.marks if mark.run == run]
            every = "All anchors move" if len(names) > 1 else "The anchor moves"
            whose = every if run is None else f"The anchor of {names[run]} moves"
            if len(places) > NAMED:
                yield f"{whose} {len(places)} times, from {places[0]} to {places[-1]}"
            else:
                yield f"{whose} at {', '.join(map(str, places))}"


Points = dict[float, float]
"""Where → value."""


def charts(runs: Sequence[Account]) -> dict[str, list[Chart]]:
    """Heading → its metrics' charts. Values that are not finite are left out and counted."""
    tables = [dict(_grouped(run)) for run in runs]
    phases = list(dict.fromkeys(phase for table in tables for phase in table))
    order = [phase for phase in HEADINGS if phase in phases] + sorted(set(phases) - set(HEADINGS))
    longest = max([1.0, *(at for table in tables for each in table.values() for p in each.values() for at in p)])
    marks = tuple(_marks(runs, longest))
    found = {}
    for phase in order:
        names = sorted({name for table in tables for name in table.get(phase, {})})
        made = [_chart(name, [table.get(phase, {}) for table in tables], marks, longest) for name in names]
        if kept := [each for each in made if each is not None]:
            found[HEADINGS.get(phase, phase)] = kept
    return found


def _grouped(run: Account) -> Iterator[tuple[str, dict[str, Points]]]:
    """Phase → metric → points; errors and ends of intervals among the metrics."""
    table: dict[str, dict[str, Points]] = {}
    steps = _steps(run.metrics)
    speed = ({**line, "phase": "speed"} for line in run.perf if "perf/step_seconds" in line)
    for line in (*run.metrics, *speed):
        at = _place(line, steps)
        if line["phase"] == "evals" and at % run.period:
            continue  # a look-ahead is no step
        for name, value in line.items():
            if name not in PLACE:
                table.setdefault(line["phase"], {}).setdefault(name, {})[at] = value
    yield from table.items()


def _steps(lines: Iterable[Mapping[str, Any]]) -> dict[int, int]:
    """Iteration → steps of its fit; of the last, which may not be over, as many as the longest has."""
    found: dict[int, int] = {}
    for line in lines:
        if line["phase"] == "fit" and line["iteration"] != "initial":
            found[line["iteration"]] = max(found.get(line["iteration"], 0), line["step"] + 1)
    return {**found, max(found): max(found.values())} if found else {}


def _place(line: Mapping[str, Any], steps: Mapping[int, int]) -> float:
    if line["iteration"] == "initial":
        return 0.0
    phase, iteration = line["phase"], line["iteration"]
    if phase in ("evals", "unseen", "kept"):
        return iteration + 1.0
    if phase in ("fit", "speed"):
        return iteration + (line["step"] + 1) / steps.get(iteration, line["step"] + 1)
    return iteration + line["step"] / max(steps.get(iteration, 1), line["step"], 1)


def _marks(runs: Sequence[Account], longest: float) -> Iterator[Mark]:
    common = set.intersection(*(set(run.swaps) for run in runs)) if runs else set()
    yield from (Mark(_x(float(at), longest), at, None) for at in sorted(common))
    for index, run in enumerate(runs):
        yield from (Mark(_x(float(at), longest), at, index) for at in run.swaps if at not in common)


def _chart(name: str, tables: Sequence[Mapping[str, Points]], marks: tuple[Mark, ...], longest: float) -> Chart | None:
    """None of an error or an interval's end, and of a metric without a finite value."""
    if any(beside(name, table) for table in tables):
        return None
    curves = {}
    for index, table in enumerate(tables):
        points = sorted(table.get(name, {}).items())
        finite = np.array([point for point in points if np.isfinite(point[1])], np.float64)
        if len(finite):
            curves[index] = (finite, len(points) - len(finite))
    if not curves:
        return None
    ends = {index: _ends(name, table) for index, table in enumerate(tables) if index in curves}
    every = np.concatenate(
        [each[:, 1] for each, _ in curves.values()] + [each[:, 1:].ravel() for each in ends.values()]
    )
    low, high = float(every.min()), float(every.max())
    logarithmic = low > 0 and high / low >= DECADES
    scale = _Scale(low, high, logarithmic, longest)
    lines = tuple(
        Line(index, each[:, 0], each[:, 1], scale.path(_thinned(each)), scale.band(ends[index]), left_out)
        for index, (each, left_out) in curves.items()
    )
    return Chart(name, lines, marks, low, high, logarithmic, longest)


def _ends(name: str, table: Mapping[str, Points]) -> Float[np.ndarray, "t 3"]:
    """Where, low and high, of an interval; none of a metric without."""
    low, high = (table.get(f"{name}{end}", {}) for end in BESIDE[1:])
    both = [(at, low[at], high[at]) for at in sorted(low) if at in high and np.isfinite([low[at], high[at]]).all()]
    return np.array(both, np.float64).reshape(-1, 3)


def _thinned(points: Float[np.ndarray, "t 2"]) -> Float[np.ndarray, "k 2"]:
    """The least and the greatest of each stretch, in their order, and the last."""
    if len(points) <= 2 * BUCKETS:
        return points
    kept = {len(points) - 1}
    for stretch in np.array_split(np.arange(len(points)), BUCKETS):
        values = points[stretch, 1]
        kept |= {int(stretch[values.argmin()]), int(stretch[values.argmax()])}
    return points[sorted(kept)]


@dataclass(frozen=True)
class _Scale:
    """From iterations and a metric's units to those of the SVG."""

    low: float
    high: float
    logarithmic: bool
    longest: float

    def y(self, values: Float[np.ndarray, " t"]) -> Float[np.ndarray, " t"]:
        low, high = self.low, self.high
        if self.logarithmic:
            values, low, high = np.log(values), float(np.log(low)), float(np.log(high))
        share = (values - low) / (high - low) if high > low else np.full_like(values, 0.5)
        return np.asarray(TOP + (1 - share) * (HEIGHT - TOP - BOTTOM))

    def path(self, points: Float[np.ndarray, "t 2"]) -> str:
        return _path(points[:, 0], self.y(points[:, 1]), self.longest)

    def band(self, ends: Float[np.ndarray, "t 3"]) -> str:
        if len(ends) < 2:
            return ""
        at = np.concatenate([ends[:, 0], ends[::-1, 0]])
        return _path(at, self.y(np.concatenate([ends[:, 1], ends[::-1, 2]])), self.longest)


def _path(at: Float[np.ndarray, " t"], y: Float[np.ndarray, " t"], longest: float) -> str:
    return " ".join(f"{_x(float(one), longest)},{other:.1f}" for one, other in zip(at, y, strict=True))


def _x(at: float, longest: float) -> float:
    return round(LEFT + at / longest * (WIDTH - LEFT - RIGHT), 1)
