"""Block sizes of the TPU kernels: a table by generation, and the VMEM and SMEM arithmetic that says what fits."""

from dataclasses import dataclass, replace
from math import gcd

from jaxalign.mesh.rounding import rounded
from jaxalign.ops.attention.mosaic.visits import most
from jaxalign.ops.attention.tuning import tuning
from jaxalign.ops.generations import entry, generation

LANES = 128

VISITS_BYTES = 512 << 10
"""Most bytes of SMEM that the list of visits takes, of the mebibyte that a core has."""


@dataclass(frozen=True)
class Blocks:
    """`queries` by `keys` a visit, for all heads of a KV head; softmax takes `sub` queries at a time. Where not all is
    seen, a visit computes the parts of `part` by `part` in which something is."""

    queries: int
    keys: int
    sub: int
    part: int


@dataclass(frozen=True)
class Chip:
    """What the kernels must know of a TPU generation."""

    generation: str
    vmem: int
    """bytes of VMEM a kernel may use"""
    forward: Blocks
    backward: Blocks


@dataclass(frozen=True)
class Shape:
    """Sizes of a problem, letters of `ops.attention.problem`; `h` as the kernels have it, a multiple of the lanes."""

    n: int
    q: int
    c: int
    k: int
    g: int
    h: int
    size: int
    """bytes of an element"""
    causal: bool


def chip(generation: str) -> Chip:
    """A generation's entry of `tuning.json`. Raises ValueError for one that is not there."""
    found = entry(tuning()["pallas_tpu"], generation)
    return Chip(generation, found["vmem_mib"] << 20, *(Blocks(**found[name]) for name in ("forward", "backward")))


def generation_of(kind: str) -> str | None:
    """The generation of a kind of device, None where there are no block sizes for it."""
    found = generation(kind)
    return found if found in tuning()["pallas_tpu"] else None


def vmem_bytes(kernel: str, blocks: Blocks, shape: Shape) -> int:
    """Bytes of VMEM: what is streamed twice over, what is kept from visit to visit once, and tiles of scores."""
    g, h, size = shape.g, shape.h, shape.size
    queries, keys, tile = g * blocks.queries * h, blocks.keys * h, blocks.sub * blocks.keys
    mask = 4 * blocks.part**2
    if kernel == "forward":
        streamed = 2 * size * (2 * queries + 2 * keys)
        return streamed + (size + 4) * queries + mask + 4 * 4 * tile + (2 << 20)
    streamed = 2 * size * (4 * queries + 2 * keys)
    # gradients of the keys and values of a whole row: sums in fp32, and the results as they leave
    row = rounded(shape.c, blocks.keys) * h * (2 * 4 + 2 * 2 * size)
    columns = 2 * 4 * g * blocks.queries * LANES
    return streamed + row + columns + (3 * size + 4) * queries + mask + 6 * 4 * tile + (2 << 20)


def even(length: int, most: int) -> int:
    """The least block of whole lanes that covers `length` in as few blocks as those of `most` would."""
    return rounded(-(-length // -(-length // most)), LANES)


def fit(kernel: str, device: Chip, shape: Shape) -> Blocks | str:
    """The table's blocks, no larger than the columns need, halved along their longer side until they fit; or why none
    do."""
    table = device.forward if kernel == "forward" else device.backward
    blocks = replace(table, queries=even(shape.q, table.queries), keys=even(shape.c, table.keys))
    while vmem_bytes(kernel, blocks, shape) > device.vmem:
        if max(blocks.queries, blocks.keys) <= LANES:
            return f"{shape.c} keys of heads of {shape.h} do not fit {device.vmem >> 20} MiB of VMEM"
        longer = "queries" if blocks.queries >= blocks.keys else "keys"
        blocks = replace(blocks, **{longer: rounded(getattr(blocks, longer) // 2, LANES)})
    if 16 * visits_of(blocks, shape) > VISITS_BYTES:
        return f"{visits_of(blocks, shape)} visits of blocks do not fit {VISITS_BYTES >> 10} KiB of SMEM"
    return replace(
        blocks, sub=dividing(blocks.sub, blocks.queries), part=dividing(blocks.part, gcd(blocks.queries, blocks.keys))
    )


def dividing(most: int, whole: int) -> int:
    """The largest number of whole lanes up to `most` that divides a block."""
    return next(s for s in range(min(most, whole) // LANES * LANES, 0, -LANES) if whole % s == 0)


def usual_visits(blocks: Blocks, shape: Shape) -> int:
    """Pairs of blocks that are visited by each KV head where rows have one group each: of other columns than the
    queries' own half, which is what pieces of rows in balanced order see of one another (`ops.attention.ring`)."""
    return visits_of(blocks, shape) // (1 if shape.causal else 2)


def visits_of(blocks: Blocks, shape: Shape) -> int:
    """Pairs of blocks that are visited at most, by each KV head."""
    queries, keys = rounded(shape.q, blocks.queries), rounded(shape.c, blocks.keys)
    return most(shape.n, queries, keys, shape.causal, (blocks.queries, blocks.keys))
