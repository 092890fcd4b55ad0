"""Compiles an experiment's programs for machines that are not here, and says whether they fit and what they cost.

The compiler of the device (pip install 'jaxalign[plan]' for TPUs, 'jaxalign[plan-gpu]' for GPUs) compiles the real
training step, rollouts, log-prob passes and judges for a topology; nothing is allocated and no weights are read. Every
field of the experiment is an option, as in `train`.
"""

import argparse
import json
import os
import sys

HELP = "compile for a machine that is not here: memory, cost, fit"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Config and topology; the experiment's own options come as the rest."""
    parser.set_defaults(experiment_options=True)
    parser.add_argument("config", metavar="CONFIG", help="config file")
    parser.add_argument(
        "--topology", metavar="NAME", help="v5p:4x4x4, v5e:16x16, v6e:8x8, h100:8 …; default: the experiment's own"
    )
    parser.add_argument("--slices", type=int, metavar="N", help="pod slices; default: placement.mesh.slices")
    parser.add_argument("--explore", action="store_true", help="also compile the training step of all alternatives")
    parser.add_argument("--print-shardings", action="store_true", help="print how every parameter is split, and stop")
    parser.add_argument("--only", default="", metavar="A,B", help="programs to compile: train, logp …; default: all")
    parser.add_argument(
        "--kept",
        metavar="DIR",
        help="folder that compilers' results are read from and kept in for later plans; off: none (default: one in "
        "your cache)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    """Plans; exit code 8 when something does not fit."""
    import jax

    from jaxalign.config.load import load, override, validate
    from jaxalign.errors import ConfigError, DoesNotFit
    from jaxalign.plan.chips import topology
    from jaxalign.plan.kept import kept_in
    from jaxalign.plan.plan import make
    from jaxalign.plan.report import as_json, as_text

    # The compilers are plugins that would look for their devices when JAX starts.
    jax.config.update("jax_platforms", "cpu")
    experiment = override(load(args.config), args.rest)
    validate(experiment)
    name = args.topology or experiment.placement.topology
    if not name:
        raise ConfigError("--topology NAME is missing, and the experiment names none (placement.topology)")
    slices = experiment.placement.mesh.slices if args.slices is None else args.slices
    target = topology(name, slices)
    if args.print_shardings:
        from jaxalign.mesh.sharding import describe
        from jaxalign.plan.target import machine_of

        machine = machine_of(experiment, target)
        print(describe(machine.mesh, machine.abstract))
        return
    kept = kept_in(args.kept, os.environ)
    only = [each for each in args.only.split(",") if each]
    plan = make(
        experiment, target, args.explore, lambda line: print(f"plan: {line}", file=sys.stderr, flush=True), kept, only
    )
    print(json.dumps(as_json(plan), indent=2) if args.json else as_text(plan))
    if not plan.fits:
        raise DoesNotFit(f"{args.config} does not fit {target.name}")
