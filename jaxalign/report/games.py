"""Figures of games, for papers: trajectories on the simplex, gap against steps, robust win rate against k.

Every figure is written as PNG (300 dpi) and SVG (text stays text). Colours are Okabe and Ito's, safe for most colour
vision; the method of interest is drawn last and thickest.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from jaxalign.errors import ConfigError

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
BOLD = "#000000"
FONT_POINTS = 8
COLUMN_INCHES = 3.4
"""Width of a column in the usual two-column paper."""

CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(3.0) / 2.0]])
"""Where the vertices of the simplex are drawn."""


@dataclasses.dataclass(frozen=True)
class Path3:
    """One learner's policies [t 3] on the simplex, in order."""

    name: str
    policies: Float[np.ndarray, "t 3"]


def simplex(paths: Sequence[Path3], nash: Float[np.ndarray, " 3"], actions: Sequence[str], into: Path) -> list[Path]:
    """Trajectories of learners on a three-action game, one small triangle each, with the Nash policy marked."""
    plot = pyplot()
    columns = min(3, len(paths))
    rows = -(-len(paths) // columns)
    figure, axes = plot.subplots(rows, columns, figsize=(2.3 * columns, 2.3 * rows), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for index, path in enumerate(paths):
        axis = axes.flat[index]
        _triangle(axis, actions)
        line = path.policies @ CORNERS
        colour = COLOURS[index % len(COLOURS)]
        axis.plot(*line.T, color=colour, lw=0.8, alpha=0.9, solid_joinstyle="round")
        axis.plot(*line[0], marker="o", ms=4, color="white", mec="black", mew=0.8, zorder=4)
        axis.plot(*line[-1], marker="s", ms=4, color=colour, mec="black", mew=0.6, zorder=5)
        axis.plot(*(nash @ CORNERS), marker="*", ms=9, color="#F0E442", mec="black", mew=0.6, zorder=3)
        axis.set_title(path.name, pad=6)
    legend = [("o", "white", "start"), ("s", "#999999", "last"), ("*", "#F0E442", "Nash")]
    marks = [
        plot.Line2D([], [], marker=marker, ls="", mfc=colour, mec="black", mew=0.6, ms=6, label=text)
        for marker, colour, text in legend
    ]
    figure.legend(handles=marks, loc="lower center", ncols=3, frameon=False)
    figure.tight_layout(rect=(0, 0.06, 1, 1), w_pad=1.5, h_pad=1.5)
    return save(figure, into, "simplex")


def gap_against_steps(
    steps: Float[np.ndarray, " t"],
    gaps: Mapping[str, Float[np.ndarray, " t"]],
    into: Path,
    bold: str = "",
    xlabel: str = "steps",
    floor: float = 1e-16,
    xscale: Literal["log", "linear"] = "log",
) -> list[Path]:
    """Duality gap (both players) of each learner's last iterate, on a logarithmic scale; values below `floor` are drawn
    at it, and NaN is drawn past."""
    plot = pyplot()
    figure, axis = plot.subplots(figsize=(1.9 * COLUMN_INCHES, 0.95 * COLUMN_INCHES))
    styles = ("-", "--", ":", "-.")
    # Listed as the curves end, top to bottom, so that the legend reads along the right edge.
    names = sorted(
        gaps, key=lambda name: (-round(np.log10(max(np.nan_to_num(gaps[name], nan=floor)[-1], floor)), 1), name)
    )
    given = list(gaps)
    for name in names:
        index = given.index(name)  # so that a curve has its colour in every figure
        colour, style = COLOURS[index % len(COLOURS)], styles[index // len(COLOURS) % len(styles)]
        heavy, there = name == bold, ~np.isnan(gaps[name])
        axis.plot(
            steps[there],
            np.maximum(gaps[name][there], floor),
            color=BOLD if heavy else colour,
            ls="-" if heavy else style,
            lw=1.8 if heavy else 1.1,
            zorder=3 if heavy else 2,
            label=name,
        )
    axis.set_xscale(xscale)
    axis.set_yscale("log")
    axis.set_xlabel(xlabel)
    axis.set_ylabel("duality gap")
    axis.grid(which="major", lw=0.3, alpha=0.5)
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, handlelength=2.2)
    figure.tight_layout()
    return save(figure, into, "gap")


def robust_win_rate(
    k: Sequence[int], rates: Mapping[str, Float[np.ndarray, " t"]], guarantee: Float[np.ndarray, " t"], into: Path
) -> list[Path]:
    """Worst-case win rate of k samples against any single response, with the optimum k / (k + 1)."""
    plot = pyplot()
    figure, axis = plot.subplots(figsize=(1.25 * COLUMN_INCHES, 0.9 * COLUMN_INCHES))
    axis.plot(k, guarantee, color="#999999", lw=3.5, alpha=0.6, label="optimum k/(k+1)", zorder=1)
    for index, (name, values) in enumerate(rates.items()):
        axis.plot(k, values, marker="osD^v"[index % 5], ms=3.5, lw=1.1, color=COLOURS[index % len(COLOURS)], label=name)
    axis.set_xscale("log", base=2)
    axis.set_xticks(list(k), [str(each) for each in k])
    axis.minorticks_off()
    axis.set_xlabel("samples per prompt, k")
    axis.set_ylabel("robust win rate")
    axis.set_ylim(0.4, 1.0)
    axis.grid(lw=0.3, alpha=0.5)
    axis.legend(frameon=False, loc="upper left")
    figure.tight_layout()
    return save(figure, into, "robust_win_rate")


def _triangle(axis: Any, actions: Sequence[str]) -> None:
    """The simplex with faint grid lines at tenths, vertices named."""
    for tenth in np.arange(0.2, 1.0, 0.2):
        for corner in range(3):
            start, end = np.zeros(3), np.zeros(3)
            start[corner] = end[corner] = tenth
            start[(corner + 1) % 3] = end[(corner + 2) % 3] = 1.0 - tenth
            axis.plot(*(np.stack([start, end]) @ CORNERS).T, color="#DDDDDD", lw=0.4, zorder=0)
    axis.plot(*CORNERS[[0, 1, 2, 0]].T, color="black", lw=0.8, zorder=1)
    offsets = ((-0.05, -0.07), (0.05, -0.07), (0.0, 0.05))
    for corner, offset, name in zip(CORNERS, offsets, actions, strict=True):
        axis.text(*(corner + np.asarray(offset)), name, ha="center", va="center", style="italic")
    axis.set_aspect("equal")
    axis.set_xlim(-0.1, 1.1)
    axis.set_ylim(-0.12, 0.97)


def pyplot() -> Any:
    """Matplotlib with a paper's settings; imported here, for it is optional and slow."""
    try:
        import matplotlib
    except ImportError as error:
        raise ConfigError("figures need matplotlib: pip install 'jaxalign[report]'") from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plot

    plot.rcParams.update(
        {
            "font.size": FONT_POINTS,
            "axes.titlesize": FONT_POINTS,
            "legend.fontsize": FONT_POINTS - 1,
            "xtick.labelsize": FONT_POINTS - 1,
            "ytick.labelsize": FONT_POINTS - 1,
            "axes.linewidth": 0.6,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "svg.fonttype": "none",
            # Without a salt and a date the same data gives the same file.
            "svg.hashsalt": "jaxalign",
        }
    )
    return plot


def save(figure: Any, into: Path, name: str) -> list[Path]:
    """Writes a figure as PNG and SVG, closes it, and returns the files."""
    into.mkdir(parents=True, exist_ok=True)
    paths = [into / f"{name}.png", into / f"{name}.svg"]
    figure.savefig(paths[0], dpi=300, bbox_inches="tight", metadata={"Software": None})
    figure.savefig(paths[1], bbox_inches="tight", metadata={"Date": None})
    pyplot().close(figure)
    return paths
