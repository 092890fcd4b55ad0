"""Runs an experiment, or continues it: the same command goes on wherever the last one stopped.

CONFIG is a Python file that defines `experiment`; every field of it is an option, `--loss.eta 0.01` or
`--loss.eta=0.01`. `jaxalign train CONFIG --help` lists them with their defaults.
"""

import argparse
import sys
from typing import Any

HELP = "run an experiment, or continue it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Config and run directory; the experiment's own options come as the rest."""
    parser.set_defaults(experiment_options=True)
    parser.add_argument(
        "-h", "--help", action=_Help, nargs=0, help="this text, and CONFIG's options when it is named first"
    )
    parser.add_argument("config", metavar="CONFIG", help="config file")
    parser.add_argument(
        "--workdir", metavar="DIR", help="run directory; created, or continued if it holds this experiment"
    )
    parser.add_argument("--print-config", action="store_true", help="print the resolved experiment as JSON and stop")


class _Help(argparse.Action):
    """Help of the verb; after a config, of the experiment it defines."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object, option: str | None = None
    ) -> None:
        from jaxalign import config

        if namespace.config is None:
            parser.print_help()
        else:
            print(config.help_text(config.load(namespace.config), namespace.config))
        parser.exit()


def run(args: argparse.Namespace) -> None:
    """Checks everything that can be checked without compute, then aligns."""
    from jaxalign import config
    from jaxalign.errors import ConfigError

    experiment = config.override(config.load(args.config), args.rest)
    config.validate(experiment)
    if args.print_config:
        print(config.dumps(experiment), end="")
        return
    if args.workdir is None:
        raise ConfigError("--workdir DIR is missing: where the run is kept, and continued from")
    print(f"jaxalign: {args.config} in {args.workdir}", file=sys.stderr, flush=True)
    _align(experiment, args.workdir, config.dump(experiment))


def _align(experiment: Any, workdir: str, resolved: dict[str, Any]) -> None:
    from jaxalign.align import align
    from jaxalign.record import Recorder
    from jaxalign.rundir import open_run
    from jaxalign.session import Session
    from jaxalign.stop import stop_on_signal

    with open_run(workdir, resolved) as run, stop_on_signal() as stop_requested:
        recorder = Recorder(run.path, experiment.tensorboard)
        try:
            align(Session(experiment, run, recorder, stop_requested))
        finally:
            recorder.close()
