"""What a mesh does to a model that does not divide over it, in sentences, before anything is compiled.

Whatever does not divide is replicated (`mesh.sharding`), which is right and may be wasteful: the plan of such a mesh
fits, and half of its chips repeat what others do.
"""

from collections.abc import Iterator

from jaxalign.machine import Machine
from jaxalign.mesh.rounding import rounded
from jaxalign.mesh.sharding import axes_of, devices_along, row_shards
from jaxalign.models.decoder import DecoderConfig
from jaxalign.ops.attention.mosaic.blocks import LANES, Shape, chip, fit
from jaxalign.ops.attention.tuning import tuning
from jaxalign.plan import gpu
from jaxalign.plan.chips import Topology, listed
from jaxalign.training.row_rule import Planned
from jaxalign.training.rows import RowShape


def remarks(machine: Machine, topology: Topology, step: Planned) -> tuple[str, ...]:
    """Of an experiment's model, on the mesh of its machine, trained in steps of these rows."""
    config = machine.model.config
    assert isinstance(config, DecoderConfig), "a table is not planned"
    return (
        *_shape(topology),
        *_tensor(machine, config),
        *_context(machine, step.shape),
        *_attention(machine, config, topology.generation, step),
        *_width(machine, config),
        *_expert(machine, config),
    )


def _shape(topology: Topology) -> Iterator[str]:
    if not listed(topology.generation, topology.dims):
        generation = topology.generation
        yield f"{topology.name} is no shape that Google Cloud lists for {generation}: ask whether there are any such."


def _tensor(machine: Machine, config: DecoderConfig) -> Iterator[str]:
    size = machine.mesh.shape["tensor"]
    if config.heads % size:
        yield (
            f"placement.mesh.tensor {size} does not divide the model's {config.heads} query heads: every device along "
            "it computes all of attention."
        )
    elif config.kv_heads % size:
        shared = (config.heads // config.kv_heads) % size == 0
        repeated = "keys and values" if shared else "keys, values and all of attention's scores"
        yield (
            f"placement.mesh.tensor {size} does not divide the model's {config.kv_heads} KV heads: {repeated} are "
            f"computed again on every device along it; the most that repeats nothing is "
            f"{_divisor(size, config.kv_heads)}."
        )
    for name, length in (("feed-forward width", config.mlp), ("vocabulary", config.vocab)):
        if length % size:
            yield (
                f"placement.mesh.tensor {size} does not divide the model's {name} of {length}: it is not split, and "
                "every device along it computes all of it."
            )


def _context(machine: Machine, rows: RowShape) -> Iterator[str]:
    size = machine.mesh.shape["context"]
    if rows.row % size:
        yield (
            f"placement.mesh.context {size} does not divide rows of {rows.row} tokens: they are not cut, and every "
            "device along it reads whole rows."
        )


def _attention(machine: Machine, config: DecoderConfig, generation: str, step: Planned) -> Iterator[str]:
    """Where kernels refuse the rows of a step: blocks of XLA attend, which any chip can."""
    if generation in gpu.generations():
        return
    if generation not in tuning()["pallas_tpu"]:
        yield f"There are no kernels of attention for {generation}: its scores go through memory, in blocks of XLA."
        return
    mesh, group = machine.mesh.shape, config.heads // config.kv_heads
    pieces = mesh["context"] if step.shape.row % mesh["context"] == 0 else 1
    heads = mesh["tensor"] if config.kv_heads % mesh["tensor"] == 0 else 1
    queries = mesh["tensor"] if heads == 1 and group % mesh["tensor"] == 0 else 1
    rows = -(-step.rows // machine.placement.accumulate // row_shards(machine.mesh))
    size = 2 if config.compute_dtype == "bfloat16" else 4

    def refused(pieces: int) -> list[str]:
        columns = step.shape.row // pieces
        shape = Shape(
            max(1, rows),
            columns,
            columns,
            config.kv_heads // heads,
            group // queries,
            rounded(config.head_dim, LANES),
            size,
            pieces == 1,
        )
        reasons = (fit(kernel, chip(generation), shape) for kernel in ("forward", "backward"))
        return list(dict.fromkeys(each for each in reasons if isinstance(each, str)))

    enough = next((p for p in (2, 4, 8, 16) if step.shape.row % p == 0 and not refused(p)), None)
    for reason in refused(pieces):
        yield (
            f"Kernels of attention refuse rows of {step.shape.row} tokens ({reason}): blocks of XLA attend, slower."
            + (f" They take them in {enough} pieces (placement.mesh.context)." if enough else "")
        )


def _width(machine: Machine, config: DecoderConfig) -> Iterator[str]:
    wanted = [axis for axis in axes_of(dict(machine.placement.mesh.rules)["embed"]) if machine.mesh.shape[axis] > 1]
    size = devices_along(machine.mesh, wanted)
    if config.width % size:
        yield (
            f"the model's width of {config.width} does not divide over {' · '.join(wanted)} = {size}: parameters and "
            "optimizer state are stored split over a part of these, and copied over the rest."
        )


def _expert(machine: Machine, config: DecoderConfig) -> Iterator[str]:
    size = machine.mesh.shape["expert"]
    if size == 1:
        return
    if config.mixture is None:
        yield f"placement.mesh.expert {size}, but the model has no experts: the axis splits what fsdp does."
    elif config.mixture.experts % size:
        yield (
            f"placement.mesh.expert {size} does not divide the model's {config.mixture.experts} experts: every device "
            "along it has all of them."
        )


def _divisor(size: int, count: int) -> int:
    """The largest divisor of both."""
    return next(each for each in range(min(size, count), 0, -1) if not size % each and not count % each)
