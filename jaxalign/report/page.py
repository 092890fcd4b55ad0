"""One self-contained HTML page on one or several runs: from their files alone, without a device, a network or a script.

What runs say (prompts, answers, names, errors) is text of strangers: everything is escaped, the page's own policy lets
nothing be loaded or run, and characters that would not show are drawn as signs. Every number that stands for a metric
is a `data` element whose value is the number as it was recorded.
"""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from jaxalign.evals.intervals import Named, named
from jaxalign.evaluate import RATES
from jaxalign.report import certificates
from jaxalign.report.account import PLACE, Account
from jaxalign.report.arms import measured_by
from jaxalign.report.costs import Cost, cost_of
from jaxalign.report.curves import HEIGHT, WIDTH, Chart, charts
from jaxalign.report.evidence import SHOWN, Measured, evidence
from jaxalign.report.evidence_told import Cells, blocks, unfinished
from jaxalign.report.seeds import spread
from jaxalign.report.summary import mixed
from jaxalign.storage.inputs import shown
from jaxalign.types import Metrics

TEMPLATE = "page.html.jinja"

DRAWN = {
    "gap": "Duality gap of both players against steps, on a logarithmic axis.",
    "simplex": "Where the policies of a three-action game move on the simplex; the Nash policy is a star.",
    "win_rate": "Win rates of the policies, iterate by iterate; one half is a policy no better than its opponent.",
    "k_samples": "How often k samples of a policy win at worst, beside what an equilibrium guarantees.",
    "robust_win_rate": "How often k samples win against any single answer at worst, beside the optimum k/(k+1).",
    "pareto": "What methods reach between their objectives, margins above the base's; points of each front are joined.",
}
"""What a figure shows, by the name of its file: its alternative text and its caption."""

SIGNS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"} | {
    0x7F: 0x2421,
    **dict.fromkeys(
        [*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0xD800, 0xE000)], 0xFFFD
    ),
}
"""Characters that do not show, or turn others around, as signs that do."""


@dataclass(frozen=True)
class Figure:
    """A drawn figure: what it shows, and its SVG as a data URI."""

    says: str
    source: str


@dataclass(frozen=True)
class Told:
    """A run, as its section of the page tells it. `last` is the number of the last policy that was evaluated."""

    run: Account
    last: int
    headline: tuple[Named, ...]
    metrics: tuple[Named, ...]
    settings: Mapping[str, str]
    fingerprints: tuple[tuple[str, str, str], ...]
    versions: str
    rates: tuple[Named, ...]
    matrix: tuple[tuple[str, tuple[float, ...]], ...]
    verdict: tuple[str, ...]
    certificates: tuple[tuple[int, tuple[str, ...]], ...]
    cost: Cost | None


@dataclass(frozen=True)
class Table:
    """Cells under a caption, the first row's and the first column's being titles."""

    caption: str
    rows: Cells


def page(arms: Mapping[str, Sequence[Account]], figures: Sequence[Path], notes: Sequence[str] = ()) -> str:
    """The page on the runs of `arms`, one or those of several seeds each.

    Of `figures`, files that were drawn of them, the SVGs are shown; `notes` are sentences on what could not be drawn.
    """
    runs = [run for arm in arms.values() for run in arm]
    return (
        _environment()
        .get_template(TEMPLATE)
        .render(
            title=", ".join(arms),
            runs=[_told(run) for run in runs],
            spreads=[table for name, arm in arms.items() if (table := _spread(name, arm)) is not None],
            comparison=list(_comparison(arms)) if len(arms) > 1 else [],
            differences=_differences(runs),
            figures=[_figure(path) for path in figures if path.suffix == ".svg"],
            notes=notes,
            charts=charts(runs),
            names=[run.name for run in runs],
            width=WIDTH,
            height=HEIGHT,
        )
    )


def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value,
    )
    made.filters |= {"number": number, "chart": _described}
    return made


def visible(text: str) -> str:
    """Text with signs for characters that do not show, or that turn others around."""
    return text.translate(SIGNS)


def number(value: float) -> str:
    """For people: four digits."""
    return f"{value:.4g}"


def _described(chart: Chart, names: Sequence[str]) -> str:
    return chart.described(names)


def _told(run: Account) -> Told:
    last, metrics = _last(run)
    listed = named(metrics)
    lines = certificates.certified(run.metrics)
    changed = run.summary.get("versions") if run.summary is not None else None
    return Told(
        run,
        last,
        tuple(each for name in SHOWN for each in listed if each.name == name),
        tuple(listed),
        settings(run.config),
        tuple((f"{each.field} {each.name}".strip(), each.place, shown(each.fingerprint)) for each in _inputs(run)),
        f"The run: {mixed(changed)}." if changed else "",
        tuple(each for name in RATES for each in listed if each.name == name),
        tuple(_matrix(run.summary or {})),
        tuple(certificates.verdict(run.metrics)),
        tuple((line["iteration"] + 1, tuple(certificates.told(line))) for line in lines[-1:]),
        cost_of(run.perf),
    )


def _last(run: Account) -> tuple[int, Metrics]:
    """The number of the last policy that was evaluated, and what was measured of it and of the fits."""
    lines = [line for line in run.metrics if line["phase"] == "evals"]
    places = [0 if line["iteration"] == "initial" else line["iteration"] + 1 for line in lines]
    if run.summary is not None:
        return max([run.iterations, *places]), measured_by(run.summary, ())
    if not lines:
        return 0, {}
    return places[-1], {name: value for name, value in lines[-1].items() if name not in PLACE}


def _inputs(run: Account) -> Sequence[Any]:
    return run.pinned.inputs if run.pinned is not None else ()


def _matrix(summary: Mapping[str, Any]) -> Iterator[tuple[str, tuple[float, ...]]]:
    """Row policies with their win rates against the column policies, which are the same."""
    found = summary.get("win_rates")
    if isinstance(found, Mapping):
        yield from zip(found["policies"], map(tuple, found["row_beats_column"]), strict=True)


def settings(config: Mapping[str, Any]) -> dict[str, str]:
    """A config as dotted paths and JSON: a component's own path says its type."""
    return dict(_settings("", config))


def _settings(path: str, value: Any) -> Iterator[tuple[str, str]]:
    inner: Iterator[tuple[str, Any]] = iter(())
    if isinstance(value, Mapping) and value:
        if "type" in value:
            yield path or "experiment", str(value["type"])
        inner = ((key, each) for key, each in value.items() if key != "type")
    elif isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        inner = ((str(index), each) for index, each in enumerate(value))
    else:
        yield path, json.dumps(value)
    for key, each in inner:
        yield from _settings(f"{path}.{key}" if path else key, each)


def _differences(runs: Sequence[Account]) -> Table | None:
    """Settings that are not the same in all runs; None where there are none."""
    tables = [settings(run.config) for run in runs if run.config]
    every = dict.fromkeys(path for table in tables for path in table)
    rows = [(path, *(table.get(path, "–") for table in tables)) for path in every]
    kept = [row for row in rows if len(set(row[1:])) > 1]
    if not kept:
        return None
    return Table("Settings that differ", [("setting", *(run.name for run in runs if run.config)), *kept])


def measured_of(arm: Sequence[Account]) -> Measured:
    """What the finished runs of an arm have measured, by seed."""
    done = {_seed(run): measured_by(run.summary, run.metrics) for run in arm if run.summary is not None}
    return Measured(done, {}, tuple(run.name for run in arm if run.summary is None))


def _seed(run: Account) -> int:
    seed = run.config.get("seed")
    return seed if isinstance(seed, int) else -1


def _spread(name: str, arm: Sequence[Account]) -> Table | None:
    """What the last policies of several seeds are worth; None of a single finished run."""
    done = [run for run in arm if run.summary is not None]
    if len(done) < 2:
        return None
    found = spread([measured_by(run.summary, ()) for run in done if run.summary is not None])
    listed = [each.name for each in named({metric: each["median"] for metric, each in found.items()})]
    rows = [
        (
            metric,
            *(number(found[metric][what]) for what in ("median", "least", "most")),
            *map(number, found[metric]["values"]),
        )
        for metric in listed
    ]
    titles = ("metric", "median", "least", "most", *(run.name for run in done))
    return Table(f"Last policies of {len(done)} seeds of {name}", [titles, *rows])


def compared(arms: Mapping[str, Sequence[Account]]) -> dict[str, Any]:
    """The table of `evidence` over the arms, with differences from the first that is finished; no judge is asked."""
    measured = {name: measured_of(arm) for name, arm in arms.items()}
    return evidence(measured, next((name for name, each in measured.items() if each.metrics), None))


def _comparison(arms: Mapping[str, Sequence[Account]]) -> Iterator[Table | str]:
    """The same for the page; what was left out behind it."""
    table = compared(arms)
    yield from (Table(heading, rows) for heading, rows in blocks(table))
    yield from unfinished(table)


def _figure(path: Path) -> Figure:
    says = DRAWN.get(path.stem, path.stem)
    return Figure(says, "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode("ascii"))
