"""Figure of how often k samples win against a population's single answers, and against sets of l, beside what is
guaranteed at an equilibrium: k/(k + 1), and (k + 1 − l)/(k + 1)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jaxalign.games.universal import guarantee
from jaxalign.report.games import COLOURS, COLUMN_INCHES, pyplot, save
from jaxalign.types import Metrics

NAMED = re.compile(r"k_samples/(\d+)(?:_against_(\d+))?/(robust|worst)")
"""Against any single answer, which is exact, or against the worst of a pool."""


NASH = "Nash policy of two players"


@dataclass(frozen=True)
class Point:
    """A rate, and its interval where it has one."""

    rate: float
    low: float
    high: float


def points(metrics: Metrics) -> dict[int, dict[int, Point]]:
    """What was measured of a policy: l → k → rate. Against any answer where that is known, or else the worst that there
    was."""
    found: dict[int, dict[int, Point]] = {}
    for name, rate in metrics.items():
        if (match := NAMED.fullmatch(name)) is None:
            continue
        k, opponents, exact = int(match[1]), int(match[2] or 1), match[3] == "robust"
        row = found.setdefault(opponents, {})
        if exact:
            row[k] = Point(rate, rate, rate)
        elif name.replace("/worst", "/robust") not in metrics:
            row[k] = Point(rate, metrics.get(f"{name}_ci95_low", rate), metrics.get(f"{name}_ci95_high", rate))
    return {opponents: dict(sorted(row.items())) for opponents, row in sorted(found.items())}


def of_nash(metrics: Metrics) -> Metrics:
    """What is known of the Nash policy, as if it were this one."""
    end = "_of_nash"
    return {name.removesuffix(end): rate for name, rate in metrics.items() if name.endswith(end)}


def draw_k_samples(policies: Mapping[str, Metrics], into: Path) -> list[Path]:
    """One line for each policy and number of opponents' answers that was measured, and for the Nash policy where it is
    known; nothing where none was."""
    measured = {name: found for name, metrics in policies.items() if (found := points(metrics))}
    for metrics in policies.values():
        if found := points(of_nash(metrics)):
            measured[NASH] = found
    if not measured:
        return []
    plot = pyplot()
    figure, axis = plot.subplots(figsize=(1.9 * COLUMN_INCHES, 0.95 * COLUMN_INCHES))
    ks = sorted({k for each in measured.values() for row in each.values() for k in row})
    every = sorted({opponents for each in measured.values() for opponents in each})
    for opponents, style in zip(every, ("-", "--", ":", "-.") * len(every), strict=False):
        there = [k for k in ks if k >= opponents]
        said = "k/(k+1)" if opponents == 1 else f"{_less(opponents)}/(k+1)"
        best = [guarantee(k, opponents) for k in there]
        axis.plot(there, best, color="#999999", lw=3.5, alpha=0.6, ls=style, label=said, zorder=1)
        for index, (name, each) in enumerate(measured.items()):
            if row := each.get(opponents):
                at, rates = list(row), [point.rate for point in row.values()]
                ends = [[p.rate - p.low for p in row.values()], [p.high - p.rate for p in row.values()]]
                colour, label = (
                    COLOURS[index % len(COLOURS)],
                    name if opponents == 1 else f"{name}, against {opponents}",
                )
                axis.errorbar(at, rates, ends, color=colour, ls=style, lw=1.1, marker="o", ms=3, capsize=2, label=label)
    axis.set_xscale("log", base=2)
    axis.set_xticks(ks, [str(each) for each in ks])
    axis.minorticks_off()
    axis.set_xlabel("samples per prompt, k")
    axis.set_ylabel("win rate, worst case")
    axis.set_ylim(0.0, 1.0)
    axis.grid(lw=0.3, alpha=0.5)
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.tight_layout()
    return save(figure, into, "k_samples")


def _less(opponents: int) -> str:
    return f"(k−{opponents - 1})"
