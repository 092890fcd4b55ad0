"""Trains an experiment with several settings and seeds, and shows what it reaches between its objectives.

An option of the experiment that is given more than once is swept over; of several such options all combinations are
run. Each cell is the runs of --seeds in DIR/NAME@SETTINGS, where NAME is the config's. The same command continues
wherever the last one stopped. In the end, and with what other sweeps left in DIR, it writes DIR/pareto.png and .svg and
DIR/hypervolume.json: a front a method, and its hypervolume with an interval over seeds.

  W="--combiner.weights 0.1,0.9 --combiner.weights 0.5,0.5 --combiner.weights 0.9,0.1"
  jaxalign sweep configs/raco/tldr.py --workdir runs/front --seeds 3 $W
  jaxalign sweep configs/raco/tldr_cagrad.py --workdir runs/front --seeds 3 $W
"""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxalign.experiment import Experiment

HELP = "train over settings and seeds; fronts between objectives, and their hypervolume"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Config, directory, seeds; the experiment's own options come as the rest."""
    parser.set_defaults(experiment_options=True)
    parser.add_argument("config", metavar="CONFIG", help="config file")
    parser.add_argument("--workdir", metavar="DIR", required=True, help="directory of the cells")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds of each cell (default 3)")
    parser.add_argument("--metrics", metavar="A,B", help="what the front is of (default: margins of each objective)")


def run(args: argparse.Namespace) -> None:
    """Checks every cell before the first is trained."""
    from pathlib import Path

    from jaxalign.commands.train import train_seeds
    from jaxalign.config.load import load, override, validate
    from jaxalign.config.overrides import combinations
    from jaxalign.errors import ConfigError
    from jaxalign.hosts.join import Joining, joined
    from jaxalign.hosts.stop import stop_on_signal
    from jaxalign.storage.durable import absolute, refuse_bucket

    if args.seeds < 1:
        raise ConfigError(f"--seeds must be at least 1, got {args.seeds}")
    refuse_bucket(args.workdir)
    root, cells = absolute(args.workdir), dict[str, Any]()
    metrics = tuple(each.strip() for each in args.metrics.split(",")) if args.metrics else ()
    for setting, options in combinations(args.rest):
        experiment = override(load(args.config), options)
        validate(experiment)
        refuse_no_front(experiment, metrics)
        cells[f"{Path(args.config).stem}@{setting}".rstrip("@")] = experiment
    with joined(Joining()) as hosts, stop_on_signal() as stop_requested:
        for name, experiment in cells.items():
            train_seeds(args.config, root / name, experiment, args.seeds, hosts, stop_requested)
        if hosts.leader:
            print(f"\n{_fronts(Path(args.workdir), metrics)}")


def refuse_no_front(experiment: "Experiment", metrics: Sequence[str]) -> None:
    """ConfigError where it can be known before anything is trained that there will be no front."""
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


def _fronts(root: Any, metrics: Sequence[str]) -> str:
    """Writes what all finished cells in the directory come to, and returns it for a person."""
    from jaxalign.report.arms import arms_of
    from jaxalign.report.fronts import drawn, fronts, told
    from jaxalign.storage import canonical, durable

    found = fronts(arms_of(root), metrics)
    content = canonical.to_json(found)
    with durable.storage_errors(durable.absolute(root), len(content)):
        durable.write_file(durable.absolute(root) / "hypervolume.json", content)
    drawn(found, root)
    return told(found)
