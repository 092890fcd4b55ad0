"""What the last policies of runs are worth, as one HTML page and as figures (PNG and SVG); without a run, figures of
the three-action game.

index.html        what was run, what its last policies are worth, win rates, certificates in words, answers with the
                  judge's votes, cost, and curves of every metric: one file that needs neither network nor script
simplex           trajectories on the simplex (three actions)
gap               duality gap against steps, every learner, and the run
win_rate          win rates against the base, iterate by iterate
k_samples         win rates of k samples at worst, beside k/(k+1) and (k+1-l)/(k+1)
robust_win_rate   worst-case win rate of k samples against any single answer, for the run's users, or two kinds of users
pareto            of several directories that measure two or three objectives: what each reaches between them

DIR is a run, or a directory of --seeds. Of a tabular game (configs/games/…) all of games is drawn; of other policies
what they measure, gap or win rates, after a table of all that was measured at the end: of one run with intervals, of
several seeds with their median, least and most. Several DIRs are compared: means over seeds with intervals,
differences from the first, settings that differ, one curve each. Look-aheads (EGPO) are no steps and are left out of
figures, whose labels say so. A run that is not finished, or that has lost parts, is told as far as it is there. All
goes to DIR/report, of several to runs/report. Figures need matplotlib; the page does without.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

from jaxalign.config.numbers import Whole

HELP = "what the last policies of runs or of several seeds are worth: a page, and figures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The runs, and where page and figures go."""
    parser.add_argument("runs", metavar="DIR", nargs="*", help="run directories (default: only the learners)")
    parser.add_argument("--out", metavar="DIR", help="where all goes (default DIR/report, or runs/report)")
    parser.add_argument("--steps", type=Whole(), default=5000, help="steps of the learners drawn beside (default 5000)")
    parser.add_argument(
        "--config", metavar="FILE", help="the config file of runs whose components it defines; it is executed"
    )


def run(args: argparse.Namespace) -> None:
    """Draws, writes the page, and prints what was written."""
    from jaxalign.errors import ConfigError
    from jaxalign.report.games_run import draw
    from jaxalign.storage.durable import refuse_bucket

    if args.config and not args.runs:
        raise ConfigError("--config says what a run's components are: name the run too, or neither")
    for each in [*args.runs, *([args.out] if args.out else [])]:
        refuse_bucket(each)
    out = Path(args.out) if args.out else Path(args.runs[0] if len(args.runs) == 1 else "runs", "report")
    if not args.runs:
        for path in draw(None, out, args.steps):
            print(path)
        return
    for path in _report([Path(each) for each in args.runs], out, args.steps, args.config):
        print(path)


def _report(roots: list[Path], out: Path, steps: int, config: str | None) -> list[Path]:
    """Prints what the runs are worth, and writes figures and page. What cannot be drawn is said on stderr and on the
    page, which tells the rest."""
    import sys

    from jaxalign.errors import JaxalignError
    from jaxalign.report.account import Account, read
    from jaxalign.report.evidence_told import plain
    from jaxalign.report.measured import runs_of
    from jaxalign.report.page import compared, page
    from jaxalign.report.seeds import last_policies
    from jaxalign.storage import durable

    arms = {name: runs_of(path) for name, path in _named(roots).items()}
    _refuse_unknown([path for arm in arms.values() for path in arm.values()], roots, config)
    accounts: dict[str, list[Account]] = {}
    for name, arm in arms.items():
        called = {each: name if len(arm) == 1 else each if len(arms) == 1 else f"{name} {each}" for each in arm}
        accounts[name] = [read(called[each], path, config) for each, path in arm.items()]
    if len(arms) > 1:
        print(plain(compared(accounts)))
    elif told := last_policies(next(iter(arms.values()))):
        print(told)
    files, notes = list[Path](), list[str]()
    try:
        files = _drawn(arms, out, steps, config)
    except JaxalignError as error:
        notes.append(f"Not drawn: {error}")
        print(f"jaxalign report: not drawn: {error}", file=sys.stderr)
    content = page(accounts, files, notes).encode("utf-8")
    with durable.storage_errors(durable.absolute(out), len(content)):
        durable.make_directory(durable.absolute(out))
        durable.write_file(durable.absolute(out) / "index.html", content)
    return [*files, out / "index.html"]


def _named(roots: list[Path]) -> dict[str, Path]:
    """Directories by their own names, a single seed's with that of its arm, or in full where two are called alike."""
    places = [root.resolve() for root in roots]
    names = [f"{each.parent.name} {each.name}" if each.name.startswith("seed-") else each.name for each in places]
    return {name if names.count(name) == 1 else str(root): root for name, root in zip(names, roots, strict=True)}


def _refuse_unknown(paths: list[Path], roots: list[Path], config: str | None) -> None:
    """ConfigError for a DIR that is no run, and for runs with components that are not here. What is damaged is left to
    the page."""
    from jaxalign.errors import CheckpointError
    from jaxalign.reopen import reopen
    from jaxalign.storage import durable, twice

    for path in paths:
        if path in roots or twice.there(durable.absolute(path) / "config.json"):
            try:
                _ = reopen(path, config).experiment
            except CheckpointError:
                continue


def _drawn(arms: Mapping[str, Mapping[str, Path]], out: Path, steps: int, config: str | None) -> list[Path]:
    """Figures of one run, of one with several seeds, or of several of either."""
    from jaxalign.errors import ConfigError
    from jaxalign.report.arms import arm_at
    from jaxalign.report.fronts import fronts, measures_objectives
    from jaxalign.report.fronts_told import drawn
    from jaxalign.report.games_run import draw
    from jaxalign.report.measured import NO_FIGURE, draw_compared, draw_measured, is_tabular

    if len(arms) == 1:
        (runs,) = arms.values()
        if len(runs) == 1 and is_tabular(path := next(iter(runs.values())), config):
            return draw(str(path), out, steps, config)
        return draw_measured(runs, out, config)
    found = {name: arm_at(name, list(arm.values())) for name, arm in arms.items()}
    files = draw_compared(arms, out, config)
    if measures_objectives(found):
        files += drawn(fronts(found), out)
    if not files:
        raise ConfigError(NO_FIGURE.format(runs=", ".join(arms)))
    return files
