"""Runs an experiment, or continues it: the same command goes on wherever the last one stopped.

CONFIG is a Python file that defines `experiment`; every field of it is an option, `--loss.eta 0.01` or
`--loss.eta=0.01`. `jaxalign train CONFIG --help` lists them with their defaults.

On several hosts the same command runs once on each, with a --workdir that all share. With --seeds N it is N runs, one
after the other, in DIR/seed-0 and so on, and DIR/seeds.json says how far what they come to is spread.
"""

import argparse
import dataclasses
import sys
from typing import Any

HELP = "run an experiment, or continue it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Config and run directory; the experiment's own options come as the rest."""
    parser.set_defaults(experiment_options=True, compiles=True, parser=parser)
    parser.add_argument(
        "-h", "--help", action="store_true", help="this text, and with CONFIG its options as they stand"
    )
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="config file")
    parser.add_argument(
        "--workdir", metavar="DIR", help="run directory; created, or continued if it holds this experiment"
    )
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="N runs with the seeds from the experiment's own on, below DIR"
    )
    parser.add_argument("--print-config", action="store_true", help="print the resolved experiment as JSON and stop")
    parser.add_argument("--print-shardings", action="store_true", help="print how every parameter is split, and stop")
    parser.add_argument(
        "--profile",
        metavar="START:COUNT",
        help="trace COUNT of this launch's optimizer steps, from its step START on (0: the first, which compiles), "
        "into DIR/profile, for xprof; process 0 does",
    )
    processes = parser.add_argument_group("several processes, one a host")
    processes.add_argument(
        "--distributed",
        choices=("auto", "off"),
        default="auto",
        help="auto (default): join the others on a TPU pod, in a JobSet or under Slurm; off: run alone",
    )
    processes.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens, for all to reach")
    processes.add_argument("--processes", type=int, metavar="N", help="how many processes there are")
    processes.add_argument("--process-id", type=int, metavar="I", help="which of them this is, 0 … N - 1")
    processes.add_argument(
        "--join-timeout", type=int, default=300, metavar="S", help="seconds to wait for all to come (default 300)"
    )
    processes.add_argument(
        "--peer-timeout", type=int, default=60, metavar="S", help="seconds of silence that end the run (default 60)"
    )


def run(args: argparse.Namespace) -> None:
    """Checks everything that can be checked without compute, then aligns."""
    if args.config is None:
        if not args.help:
            args.parser.error("the following arguments are required: CONFIG")
        args.parser.print_help()
        return
    from pathlib import Path

    from jaxalign.config.load import help_text, load, override, validate
    from jaxalign.config.resolved import dumps
    from jaxalign.errors import ConfigError
    from jaxalign.training.profile import window

    if args.rest and not args.config.endswith(".py") and not Path(args.config).exists():
        raise ConfigError(f"{args.config!r} stands where CONFIG belongs: the config file comes first, then its options")
    if args.help:
        print(help_text(override(load(args.config), args.rest), args.config))
        return
    traced = window(args.profile) if args.profile is not None else None
    experiment = override(load(args.config), args.rest)
    validate(experiment)
    if name := experiment.placement.topology:  # a plan is made for it some day, and then it is late for a misspelling
        from jaxalign.plan.chips import topology

        topology(name, experiment.placement.mesh.slices)
    if args.print_config:
        print(dumps(experiment), end="")
        return
    if args.print_shardings:
        from jaxalign.machine import Machine
        from jaxalign.mesh.sharding import describe

        machine = Machine(experiment.model.open(), experiment.placement, experiment.seed)
        print(describe(machine.mesh, machine.abstract))
        return
    if args.workdir is None:
        raise ConfigError("--workdir DIR is missing: where the run is kept, and continued from")
    if args.seeds is not None and args.seeds < 1:
        raise ConfigError(f"--seeds must be at least 1, got {args.seeds}")
    _align_all(args, experiment, traced)


def _align_all(args: argparse.Namespace, experiment: Any, traced: Any) -> None:
    """The run, or those of several seeds and what they say together."""
    from jaxalign.hosts.join import Joining, joined
    from jaxalign.hosts.stop import stop_on_signal
    from jaxalign.storage.durable import absolute

    how = Joining(
        args.distributed, args.coordinator, args.processes, args.process_id, args.join_timeout, args.peer_timeout
    )
    with joined(how) as hosts, stop_on_signal() as stop_requested:
        if args.seeds is None:
            _align(args.config, args.workdir, experiment, hosts, stop_requested, traced)
            return
        root = absolute(args.workdir)
        train_seeds(args.config, root, experiment, args.seeds, hosts, stop_requested, traced=traced)


def train_seeds(
    config: str,
    root: Any,
    experiment: Any,
    count: int,
    hosts: Any,
    stop_requested: Any,
    *,
    traced: Any = None,
    recalled: Any = None,
) -> None:
    """Runs with `count` seeds from the experiment's own on, below `root`, and seeds.json of what they come to. What
    they have in common with others that share `recalled` is computed once."""
    from jaxalign.report.seeds import summarise_seeds

    runs = {experiment.seed + index: root / f"seed-{experiment.seed + index}" for index in range(count)}
    for seed, path in runs.items():
        own = dataclasses.replace(experiment, seed=seed)
        _align(config, path, own, hosts, stop_requested, traced, recalled)
    if hosts.leader:
        print(f"\n{summarise_seeds(root, runs)}")


def _align(
    config: str, workdir: Any, experiment: Any, hosts: Any, stop_requested: Any, traced: Any, recalled: Any = None
) -> None:
    import jax

    from jaxalign.align import align
    from jaxalign.config.resolved import dump
    from jaxalign.report.summary import told
    from jaxalign.session import Session
    from jaxalign.storage.record import open_recorder
    from jaxalign.storage.rundir import open_run
    from jaxalign.training.profile import UNPROFILED, Profiler

    resolved = dump(experiment)
    if hosts.leader:
        print(f"jaxalign: {config} in {workdir}", file=sys.stderr, flush=True)
    with open_run(workdir, resolved, hosts) as run:
        recorder = open_recorder(run.path, experiment.trackers, resolved, hosts, jax.device_count)
        profiler = Profiler(traced, run.path / "profile") if traced and hosts.leader else UNPROFILED
        try:
            session = Session(experiment, run, recorder, stop_requested, profiler, recalled)
            summary = align(session)
        finally:
            profiler.close()
            recorder.close()
        if hosts.leader:
            answers = not session.machine.model.config.outputs
            print(told(summary, run.path, experiment.iterations, answers))
