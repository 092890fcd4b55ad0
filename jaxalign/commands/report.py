"""What the last policies of a run, or of several seeds, are worth, and figures as PNG and SVG; without a run, figures
of the three-action game.

simplex           trajectories on the simplex (three actions)
gap               duality gap against steps, every learner, and the run
win_rate          win rates against the base, iterate by iterate
k_samples         win rates of k samples at worst, beside k/(k+1) and (k+1-l)/(k+1)
robust_win_rate   worst-case win rate of k samples against any single answer, for the run's users, or two kinds of users

DIR is a run, or a directory of --seeds. Of a tabular game (configs/games/…) all of games is drawn; of other policies
what they measure, gap or win rates, after a table of all that was measured at the end: of one run with intervals, of
several seeds with their median, least and most. Look-aheads (EGPO) are no steps and are left out of figures, whose
labels say so. The figures go to DIR/report. They need matplotlib.
"""

import argparse
from pathlib import Path

HELP = "what the last policies of a run or of several seeds are worth, and figures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run, and where the figures go."""
    parser.add_argument("run", metavar="DIR", nargs="?", help="run directory (default: only the learners)")
    parser.add_argument("--out", metavar="DIR", help="where figures go (default DIR/report, or runs/report)")
    parser.add_argument("--steps", type=int, default=5000, help="steps of the learners drawn beside (default 5000)")
    parser.add_argument(
        "--config", metavar="FILE", help="the config file of a run whose components it defines; it is executed"
    )


def run(args: argparse.Namespace) -> None:
    """Draws, and prints what was written."""
    from jaxalign.errors import ConfigError
    from jaxalign.report.games_run import draw
    from jaxalign.report.measured import draw_measured, runs_of
    from jaxalign.report.seeds import last_policies

    if args.config and not args.run:
        raise ConfigError("--config says what a run's components are: name the run too, or neither")
    out = Path(args.out) if args.out else Path(args.run, "report") if args.run else Path("runs", "report")
    runs = runs_of(Path(args.run), args.config) if args.run else {}
    if runs:
        print(last_policies(runs))
    for path in draw_measured(runs, out, args.config) if runs else draw(args.run, out, args.steps, args.config):
        print(path)
