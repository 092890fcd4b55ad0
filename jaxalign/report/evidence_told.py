"""The table of `report.evidence` for a person: on a terminal, and as Markdown. The same cells in both."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxalign.report.arms import FIT

Cells = Sequence[tuple[str, ...]]


def plain(table: Mapping[str, Any]) -> str:
    """A block a metric, a line an arm."""
    parts = [f"{metric}\n{_aligned(rows)}" for metric, rows in blocks(table)]
    return "\n\n".join([*parts, *unfinished(table)])


def markdown(table: Mapping[str, Any]) -> str:
    """A table a metric, a row an arm."""
    parts = [f"**{metric}**\n\n{_piped(rows)}" for metric, rows in blocks(table)]
    return "\n\n".join([*parts, *unfinished(table)]) + "\n"


def blocks(table: Mapping[str, Any]) -> Iterator[tuple[str, Cells]]:
    """Metric by metric a heading and cells, the first row's being titles; then fit by fit what each arm's came to."""
    arms = {name: arm["metrics"] for name, arm in table["arms"].items()}
    for metric in table["metrics"]:
        if metric.startswith(FIT):
            continue
        rows = {name: cells[metric] for name, cells in arms.items() if metric in cells}
        covered = dict.fromkeys(cell["covers"] for cell in rows.values() if cell["covers"])
        yield f"{metric} (intervals cover {'; '.join(covered)})" if covered else metric, _rows(rows, table["against"])
    if fits := [metric for metric in table["metrics"] if metric.startswith(FIT)]:
        yield (
            "change of each fit's loss on pairs that it has not seen (intervals cover seeds, own prompts)",
            [
                ("fit", *arms),
                *(
                    (
                        metric.removeprefix(FIT),
                        *(_value(each[metric]) if metric in each else "" for each in arms.values()),
                    )
                    for metric in fits
                ),
            ],
        )


def _rows(cells: Mapping[str, Mapping[str, Any]], against: str | None) -> Cells:
    """Arms with their values, their differences where there is any, and their seeds."""
    compared = any("difference" in cell for cell in cells.values())
    body = []
    for name, cell in cells.items():
        above = [_value(cell["difference"], sign="+") if "difference" in cell else ""] if compared else []
        seeds = ", ".join(_value({"mean": each["value"], "ci95": each["ci95"]}) for each in cell["seeds"])
        body.append((name, _value(cell), *above, seeds))
    return [("arm", "mean over seeds", *([f"above {against}"] if compared else []), "each seed"), *body]


def _value(cell: Mapping[str, Any], sign: str = "") -> str:
    """A value with its interval."""
    ends = "" if cell["ci95"] is None else " [" + ", ".join(f"{end:{sign}.3g}" for end in cell["ci95"]) + "]"
    return f"{cell['mean']:{sign}.3g}{ends}"


def _aligned(rows: Cells) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(f"  {line.rstrip()}" for line in lines)


def _piped(rows: Cells) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def unfinished(table: Mapping[str, Any]) -> list[str]:
    """Runs that are left out."""
    left = [f"{name}: {', '.join(runs)}" for name, runs in table["unfinished"].items()]
    return [f"Not finished and left out: {'; '.join(left)}"] if left else []
