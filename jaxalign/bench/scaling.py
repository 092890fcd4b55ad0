"""Weak scaling by compilation: one training step for ever more chips, each with as much work.

Nothing may grow with the number of chips but what must: the sum of gradients over copies of the parameters sends
2 (g − 1) / g of a shard, so it tends to twice a shard. Compiles with libtpu; no chip is needed.
"""

import argparse
import dataclasses
import math
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

from jaxalign.config.numbers import Whole
from jaxalign.config.overrides import refuse
from jaxalign.experiment import Experiment
from jaxalign.mesh.sharding import MeshShape, row_shards
from jaxalign.plan.chips import chip, topology
from jaxalign.plan.compiled import Compiled, compile_program
from jaxalign.plan.lowered import programs
from jaxalign.plan.target import machine_of, sizes_of

HELP = "weak scaling by compilation: per-chip memory and traffic from 8 to 4,096 chips"

TOPOLOGIES = "v5p:2x2x2,v5p:2x4x4,v5p:4x4x8,v5p:8x8x8,v5p:8x16x16,v5p:16x16x16"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Config, topologies, and what stays the same."""
    parser.add_argument("config", metavar="CONFIG", help="config file: model, rows and step")
    parser.add_argument("--topologies", default=TOPOLOGIES, metavar="A,B,…", help=f"default: {TOPOLOGIES}")
    parser.add_argument(
        "--fsdp", type=Whole(), default=8, help="shards of the parameters; further chips are copies (8)"
    )
    parser.add_argument("--rows", type=Whole(), default=2, help="rows a chip and step (2)")
    parser.add_argument("--options", default="", metavar="'--a.b value …'", help="options of the experiment")
    parser.add_argument("--plot", metavar="FILE", help="write a figure there (.svg, .png)")


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row a topology: chips, memory (GiB) and traffic (MiB) of one chip, estimated step (ms)."""
    from jaxalign.config.load import load, override

    experiment = override(load(args.config), args.options.split())
    shape = dataclasses.replace(experiment.placement.mesh, data=-1, fsdp=args.fsdp)
    refuse(_problems(args, shape))
    rows = []
    for name in args.topologies.split(","):
        print(f"compiling for {name}", file=sys.stderr, flush=True)
        rows.append(measure(experiment, name, shape, args.rows))
    if args.plot:
        draw(rows, args.plot)
    return rows


def _problems(args: argparse.Namespace, shape: MeshShape) -> Iterator[str]:
    """Said before the first topology is compiled, of all of them. Raises ConfigError for an unknown topology."""
    for name in args.topologies.split(","):
        devices, a_copy = topology(name, shape.slices).devices, -math.prod(shape.sizes.values())
        if devices % a_copy:
            yield f"--fsdp {args.fsdp}: a mesh of {shape.sizes} does not divide the {devices} devices of {name}"
    if args.plot and not args.plot.endswith((".svg", ".png")):
        yield f"--plot {args.plot}: a name that ends in .svg or .png is expected"
    if args.plot and not (folder := pathlib.Path(args.plot).parent).is_dir():
        yield f"--plot {args.plot}: there is no folder {folder}"


def measure(experiment: Experiment, name: str, shape: MeshShape, rows: int) -> dict[str, Any]:
    """The training step on one topology."""
    placement = dataclasses.replace(experiment.placement, mesh=shape, accumulate=1)
    target = topology(name, shape.slices)
    machine = machine_of(dataclasses.replace(experiment, placement=placement), target)
    mesh = machine.mesh
    groups = rows * row_shards(mesh) * experiment.fit.rows.groups
    fit = dataclasses.replace(experiment.fit, batch_size=groups)
    settings = dataclasses.replace(experiment, placement=placement, fit=fit)
    step = next(p for p in programs(settings, machine, sizes_of(settings, machine.model)) if p.name == "train")
    made = compile_program(step, machine.model, target, chip(target.generation))
    row: dict[str, Any] = {"topology": name, "chips": target.chips, "data": mesh.shape["data"], "fsdp": shape.fsdp}
    if not isinstance(made, Compiled):
        return {**row, "too_large": made.reason}
    kinds = {kind: of.bytes / 2**20 for kind, of in made.traffic.by_kind.items()}
    return {
        **row,
        "arguments_gib": made.memory.arguments / 2**30,
        "temporaries_gib": made.memory.temporaries / 2**30,
        "peak_gib": made.memory.peak / 2**30,
        **{
            f"{kind}_mib": kinds.get(kind, 0.0) for kind in ("all-gather", "reduce-scatter", "all-reduce", "all-to-all")
        },
        "dcn_mib": made.traffic.dcn_bytes / 2**20,
        "step_ms": 1e3 * made.estimate.step_seconds,
        "compile_seconds": made.compile_seconds,
    }


def draw(rows: list[dict[str, Any]], path: str) -> None:
    """Memory and traffic of one chip over the number of chips."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in rows if "peak_gib" in row]
    chips = [row["chips"] for row in rows]
    figure, (memory, traffic) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for name in ("arguments_gib", "temporaries_gib", "peak_gib"):
        memory.plot(chips, [row[name] for row in rows], marker="o", label=name.removesuffix("_gib"))
    memory.set_ylabel("GiB a chip")
    for name in ("all-gather_mib", "reduce-scatter_mib", "all-reduce_mib", "all-to-all_mib"):
        traffic.plot(chips, [row[name] / 1024 for row in rows], marker="o", label=name.removesuffix("_mib"))
    traffic.set_ylabel("GiB a chip sends in a step")
    for axes in (memory, traffic):
        axes.set_xscale("log", base=2)
        axes.set_xlabel("chips")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path)
    pyplot.close(figure)
