"""What a run has measured of its iterates, drawn: the duality gap of games whose policies are no tables, win rates
against the base, and of k samples."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxalign.errors import ConfigError
from jaxalign.models.tabular import TabularPolicy
from jaxalign.reopen import reopen
from jaxalign.report.games import gap_against_steps
from jaxalign.report.k_samples import draw_k_samples
from jaxalign.report.steps import named
from jaxalign.report.win_rates import Curve, win_rates
from jaxalign.storage.record import read_metrics
from jaxalign.types import Metrics

GAP, RATE = "nash/gap", "win_rate/vs_base"
MEDIAN = "median"

NO_FIGURE = (
    f"{{runs}}: not every run measures {GAP}, nor {RATE}, nor what k samples win: there is no figure (evals NashGap "
    "and ExactNash measure the first, WinRate the second, KSampleWinRate the third)"
)

KINDS = {
    RATE: "all pairs",
    "win_rate_length_controlled/vs_base": "at equal length (model)",
    "win_rate_equally_long/vs_base": "equally long pairs",
    "win_rate_finished/vs_base": "finished pairs",
    "robust_win_rate/worst": "worst of the pool",
}
"""Win rates of one run that are drawn beside one another, and what the legend calls them."""


def runs_of(path: Path) -> dict[str, Path]:
    """The runs in a directory by their names: those of several seeds, or the run that it is."""
    return {each.name: each for each in sorted(path.glob("seed-*"))} or {"this run": path}


def is_tabular(path: Path, config: str | None = None) -> bool:
    """Whether a run's policies are tables, whose trajectory is drawn; `config` as for `reopen`."""
    return isinstance(reopen(path, config).experiment.model, TabularPolicy)


def draw_compared(arms: Mapping[str, Mapping[str, Path]], out: Path, config: str | None = None) -> list[Path]:
    """Writes figures of several arms, a run or the runs of several seeds each: one curve an arm that measures it, the
    median of its seeds; none where nothing of them was measured. Of k samples only what is exact, against any single
    answer: the worst of its own pool compares no run with another (`evals.pool`). `config` as for `reopen`."""
    periods = {path: reopen(path, config).step_rule.period for arm in arms.values() for path in arm.values()}
    measured = {name: {run: of_steps(path, periods[path]) for run, path in arm.items()} for name, arm in arms.items()}
    iterate = named("iterate" if max(periods.values()) == 1 else "step", max(periods.values()))

    def medians(metric: str) -> dict[str, Float[np.ndarray, " t"]]:
        found = {name: with_median(padded(each)) for name, arm in measured.items() if (each := series(arm, metric))}
        return padded({name: each.get(MEDIAN, next(iter(each.values()))) for name, each in found.items()})

    files: list[Path] = []
    if gaps := medians(GAP):
        at = np.arange(float(len(next(iter(gaps.values())))))
        files += gap_against_steps(at, gaps, out, xlabel=iterate, floor=1e-8, xscale="linear")
    if rates := medians(RATE):
        files += win_rates([Curve(name, each) for name, each in rates.items()], out, iterate)
    last = {
        f"{name} {run}" if len(arm) > 1 else name: lines for name, arm in measured.items() for run, lines in arm.items()
    }
    return files + draw_k_samples({name: _exact(metrics) for name, metrics in _last(last).items()}, out)


def draw_measured(runs: Mapping[str, Path], out: Path, config: str | None = None) -> list[Path]:
    """Writes the figures into `out` and returns their files. ConfigError where a run has measured nothing of them.
    `config` as for `reopen`."""
    periods = {name: reopen(path, config).step_rule.period for name, path in runs.items()}
    measured = {name: of_steps(path, periods[name]) for name, path in runs.items()}
    iterate = named("iterate" if max(periods.values()) == 1 else "step", max(periods.values()))
    files: list[Path] = []
    if gaps := series(measured, GAP):
        table = with_median(padded(gaps))
        at = np.arange(float(len(next(iter(table.values())))))
        files += gap_against_steps(at, table, out, bold=MEDIAN, xlabel=iterate, floor=1e-8, xscale="linear")
    if rates := series(measured, RATE):
        files += draw_win_rates(measured, rates, out, iterate)
    files += draw_k_samples(_ends(measured), out)
    if not files:
        raise ConfigError(NO_FIGURE.format(runs=", ".join(map(str, runs.values()))))
    return files


def _ends(measured: Mapping[str, list[dict]]) -> dict[str, Metrics]:
    """What k samples win of the last policies of several runs, or of one run's base and last."""
    last = _last(measured)
    if len(measured) > 1:
        return last
    (lines,) = measured.values()
    return {"base": _of_k_samples(lines[0] if lines else {}), **last}


def _last(measured: Mapping[str, list[dict]]) -> dict[str, Metrics]:
    return {
        name: _of_k_samples(next((line for line in reversed(lines) if line), {})) for name, lines in measured.items()
    }


def _of_k_samples(line: dict) -> Metrics:
    return {name: value for name, value in line.items() if name.startswith("k_samples/")}


def _exact(metrics: Metrics) -> Metrics:
    return {name: value for name, value in metrics.items() if name.endswith(("/robust", "/robust_of_nash"))}


def of_steps(path: Path, period: int) -> list[dict]:
    """What a run has measured of its base and after every step of `period` iterations, one line each: an empty one of
    a policy that it has not evaluated."""
    lines = [line for line in read_metrics(path) if line["phase"] == "evals"]
    found = {0 if line["iteration"] == "initial" else line["iteration"] + 1: line for line in lines}
    return [found.get(number, {}) for number in range(0, max(found, default=-1) + 1, period)]


def draw_win_rates(
    measured: Mapping[str, list[dict]], rates: Mapping[str, Float[np.ndarray, " t"]], out: Path, iterate: str
) -> list[Path]:
    """Every seed's win rate and their median; or of one run those of every kind, the raw one with its interval."""
    if len(measured) > 1:
        table = with_median(padded(rates))
        return win_rates([Curve(name, each, bold=name == MEDIAN) for name, each in table.items()], out, iterate)
    (lines,) = measured.values()
    found = {name: values_of(lines, name) for name in KINDS if any(name in line for line in lines)}
    band = tuple(values_of(lines, f"{RATE}_ci95_{end}") for end in ("low", "high"))
    raw = Curve(KINDS[RATE], found.pop(RATE), band, bold=True)
    return win_rates([*(Curve(KINDS[name], each) for name, each in found.items()), raw], out, iterate)


def series(measured: Mapping[str, list[dict]], name: str) -> dict[str, Float[np.ndarray, " t"]]:
    """A metric of every run's iterates; nothing where a run does not measure it."""
    found = {run: values_of(lines, name) for run, lines in measured.items()}
    return found if all(np.isfinite(each).any() for each in found.values()) else {}


def values_of(lines: list[dict], name: str) -> Float[np.ndarray, " t"]:
    """NaN where it was not measured."""
    return np.array([line.get(name, np.nan) for line in lines], np.float64)


def with_median(table: Mapping[str, Float[np.ndarray, " t"]]) -> dict[str, Float[np.ndarray, " t"]]:
    """With the median of several curves behind them; NaN where one of them is."""
    if len(table) == 1:
        return dict(table)
    return {**table, MEDIAN: np.median(np.stack(list(table.values())), 0)}


def padded(table: Mapping[str, Float[np.ndarray, " t"]]) -> dict[str, Float[np.ndarray, " t"]]:
    """All as long as the longest, NaN behind the end of those that are not done yet."""
    longest = max(map(len, table.values()), default=0)
    return {name: np.pad(each, (0, longest - len(each)), constant_values=np.nan) for name, each in table.items()}
