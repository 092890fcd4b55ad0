"""Figure of win rates, iterate by iterate."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxalign.report.games import BOLD, COLOURS, COLUMN_INCHES, pyplot, save


@dataclass(frozen=True)
class Curve:
    """Win rates of iterates 0, 1, …, NaN where there is none, which is drawn past; `band` are ends of intervals, () for
    none."""

    name: str
    rates: Float[np.ndarray, " t"]
    band: tuple[Float[np.ndarray, " t"], ...] = ()
    bold: bool = False


def win_rates(curves: Sequence[Curve], into: Path, iterate: str = "iterate") -> list[Path]:
    """One line a curve, with its band where it has one, and the 1/2 of a policy no better than its opponent. `iterate`
    is what the axis counts."""
    plot = pyplot()
    figure, axis = plot.subplots(figsize=(1.9 * COLUMN_INCHES, 0.95 * COLUMN_INCHES))
    axis.axhline(0.5, color="#999999", lw=0.8, ls=":", zorder=1)
    for index, curve in enumerate(curves):
        colour = BOLD if curve.bold else COLOURS[index % len(COLOURS)]
        at = np.flatnonzero(~np.isnan(curve.rates))
        if curve.band:
            axis.fill_between(at, *(end[at] for end in curve.band), color=colour, alpha=0.12, lw=0)
        heavy = {"lw": 1.8, "zorder": 3} if curve.bold else {"lw": 1.1, "zorder": 2}
        axis.plot(at, curve.rates[at], color=colour, marker="o", ms=3, label=curve.name, **heavy)
    axis.set_xlabel(iterate)
    axis.set_ylabel("win rate")
    axis.grid(which="major", lw=0.3, alpha=0.5)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.tight_layout()
    return save(figure, into, "win_rate")
