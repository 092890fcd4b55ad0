"""Trains experiments with several settings and seeds, and shows what each reaches between its objectives.

An option of the experiment that is given more than once is swept over; of several such options all combinations are
run. Each cell is the runs of --seeds in DIR/NAME@SETTINGS, where NAME is the config's. Of several CONFIGs, each a
method, every one takes of the swept options those that it has: one that has none of them is a single cell. Options that
are given once are for all. What the base says of recorded pairs is computed once for all cells that read the same. The
same command continues wherever the last one stopped. In the end, and with what other sweeps left in DIR, it writes
DIR/pareto.png and .svg and DIR/hypervolume.json: a front a method, its hypervolume with an interval over seeds, and the
differences of any two methods, paired by seed. Margins are gains over the base, so that the base is at 0;
--reference=0,0 measures from there.

  W="--combiner.weights 0.1,0.9 --combiner.weights 0.5,0.5 --combiner.weights 0.9,0.1"
  jaxalign sweep configs/raco/tldr.py configs/raco/tldr_cagrad.py --workdir runs/front --seeds 3 $W
"""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxalign.experiment import Experiment

HELP = "train over settings and seeds; fronts between objectives, and their hypervolume"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Configs, directory, seeds; the experiments' own options come as the rest."""
    parser.set_defaults(experiment_options=True)
    parser.add_argument("configs", metavar="CONFIG", nargs="+", help="config files, one a method")
    parser.add_argument("--workdir", metavar="DIR", required=True, help="directory of the cells")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds of each cell (default 3)")
    parser.add_argument("--metrics", metavar="A,B", help="what the front is of (default: margins of each objective)")
    parser.add_argument(
        "--reference",
        metavar="X,Y",
        help="where hypervolumes are measured from, a number a metric; written --reference=X,Y where X is negative "
        "(default: the least of each metric in DIR)",
    )


def run(args: argparse.Namespace) -> None:
    """Checks every cell, and that there can be a figure, before the first is trained."""
    from pathlib import Path

    from jaxalign.commands.train import train_seeds
    from jaxalign.errors import ConfigError
    from jaxalign.hosts.join import Joining, joined
    from jaxalign.hosts.stop import stop_on_signal
    from jaxalign.report.games import pyplot
    from jaxalign.storage.durable import absolute, refuse_bucket
    from jaxalign.storage.recalled import Recalled

    if args.seeds < 1:
        raise ConfigError(f"--seeds must be at least 1, got {args.seeds}")
    refuse_bucket(args.workdir)
    root = absolute(args.workdir)
    metrics = tuple(each.strip() for each in args.metrics.split(",")) if args.metrics else ()
    reference = numbers(args.reference) if args.reference else ()
    cells = cells_of(args.configs, args.rest)
    for _, experiment in cells.values():
        refuse_no_front(experiment, metrics, reference)
    pyplot()  # what is missing for the figure is said now and not after hours
    recalled = Recalled()
    with joined(Joining()) as hosts, stop_on_signal() as stop_requested:
        for name, (config, experiment) in cells.items():
            train_seeds(config, root / name, experiment, args.seeds, hosts, stop_requested, recalled=recalled)
        if hosts.leader:
            print(f"\n{_fronts(Path(args.workdir), metrics, reference)}")


def cells_of(configs: Sequence[str], options: Sequence[str]) -> dict[str, tuple[str, "Experiment"]]:
    """Each cell's config file and experiment, checked, by the cell's name. ConfigError for what is wrong with one, for
    an option that no config has, for one that is given once and that some config lacks, and for configs of one name."""
    from pathlib import Path

    from jaxalign.config.load import flatten, load
    from jaxalign.config.overrides import combinations, taken
    from jaxalign.errors import ConfigError

    made = [load(config) for config in configs]
    cells: dict[str, tuple[str, Experiment]] = {}
    for config, experiment, own in zip(configs, made, taken(options, [flatten(each) for each in made]), strict=True):
        for setting, words in combinations(own):
            name = f"{Path(config).stem}@{setting}".rstrip("@")
            if name in cells:
                raise ConfigError(f"{cells[name][0]} and {config}: the runs of both would be called {name}")
            cells[name] = config, _checked(config if len(configs) > 1 else "", experiment, words)
    return cells


def _checked(config: str, experiment: "Experiment", options: Sequence[str]) -> "Experiment":
    """The experiment with these options; what is wrong with it is told with its config, where that has a name."""
    from jaxalign.config.load import override, validate
    from jaxalign.errors import ConfigError

    try:
        cell = override(experiment, options)
        validate(cell)
    except ConfigError as error:
        if not config:
            raise
        raise ConfigError(f"{config}: {error}") from error
    return cell


def numbers(text: str) -> tuple[float, ...]:
    """Finite numbers that commas part; ConfigError for anything else."""
    import math

    from jaxalign.errors import ConfigError

    try:
        found = tuple(float(each) for each in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(map(math.isfinite, found)):
        raise ConfigError(f"--reference is a number for each metric, such as 0,0, got {text}")
    return found


def refuse_no_front(experiment: "Experiment", metrics: Sequence[str], reference: Sequence[float] = ()) -> None:
    """ConfigError where it can be known before anything is trained that there will be no front, or none that the
    reference is one of."""
    from jaxalign.contracts.votes import ReadsVotes
    from jaxalign.errors import ConfigError
    from jaxalign.evals.objectives import HeldOutObjectives
    from jaxalign.report.fronts import LIMITS

    if not metrics and not any(isinstance(each, HeldOutObjectives) for each in experiment.evaluation.evals):
        raise ConfigError(
            "a front is of held-out margins of each objective, and the experiment measures none: add "
            "HeldOutObjectives() to evaluation.evals, or name what it is of (--metrics)"
        )
    loss = experiment.loss
    by_loss = loss.annotators if isinstance(loss, ReadsVotes) else None
    # None: objectives that are mixed already and still measured one by one, as many as the data have
    count = len(metrics) or experiment.combiner.objectives or by_loss
    if count is not None and not LIMITS[0] <= count <= LIMITS[1]:
        raise ConfigError(f"a front is of two or three metrics, and there are {count}: name them (--metrics A,B)")
    if reference and (len(reference) != count if count else not LIMITS[0] <= len(reference) <= LIMITS[1]):
        raise ConfigError(
            f"--reference is a number for each metric, got {len(reference)} for {count or 'two or three'}"
        )


def _fronts(root: Any, metrics: Sequence[str], reference: Sequence[float]) -> str:
    """Writes what all finished cells in the directory come to, and returns it for a person."""
    from jaxalign.report.arms import arms_of
    from jaxalign.report.fronts import fronts
    from jaxalign.report.fronts_told import drawn, told
    from jaxalign.storage import canonical, durable

    found = fronts(arms_of(root), metrics, reference)
    content = canonical.to_json(found)
    with durable.storage_errors(durable.absolute(root), len(content)):
        durable.write_file(durable.absolute(root) / "hypervolume.json", content)
    drawn(found, root)
    return told(found)
