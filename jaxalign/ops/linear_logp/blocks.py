"""Block sizes of the TPU kernels: a table by generation, and the VMEM arithmetic that shrinks its entries to fit."""

from dataclasses import dataclass, replace

import jax

from jaxalign.mesh.rounding import rounded
from jaxalign.ops.generations import entry, generation
from jaxalign.ops.linear_logp.tuning import tuning

LANES = 128


@dataclass(frozen=True)
class Blocks:
    """Block sizes of one kernel: `n` tokens and `v` rows of the head a grid step, in inner steps of `sub` tokens."""

    n: int
    v: int
    sub: int
    columns: int = 512
    """columns of d that the second product makes at a time"""


@dataclass(frozen=True)
class Chip:
    """What the kernels must know of a TPU generation."""

    generation: str
    vmem: int
    """bytes of VMEM a kernel may use"""
    forward: Blocks
    forward_row: Blocks
    head: Blocks


def chip(generation: str) -> Chip:
    """A generation's entry of `tuning.json`. Raises ValueError for one that is not there."""
    found = entry(tuning()["pallas_tpu"], generation)
    return Chip(
        generation, found["vmem_mib"] << 20, *(Blocks(**found[name]) for name in ("forward", "forward_row", "head"))
    )


def generation_of(device: jax.Device) -> str:
    """The generation of a device, or the one with the least VMEM where that is no TPU that we know."""
    return generation(device.device_kind) or "v5p"


def vmem_bytes(kernel: str, blocks: Blocks, d: int, size: int) -> int:
    """Bytes of VMEM: what is streamed twice over, accumulators once, and two fp32 tiles of logits."""
    n, v = blocks.n * d, blocks.v * d
    streamed = 2 * size * (n + v)
    tiles = 2 * 4 * blocks.v * blocks.sub + size * blocks.v * blocks.n
    kept = {"forward": 0, "forward_row": 4 * n + 2 * size * n, "head": 4 * v + 2 * size * v}[kernel]
    return streamed + tiles + kept + (4 << 20)


def fit(kernel: str, blocks: Blocks, limit: int, n: int, d: int, size: int) -> Blocks:
    """The table's blocks, no larger than the tokens need, halved along their longer side until they fit.

    limit: bytes of VMEM; n: tokens; d: width; size: bytes of an element. Raises ValueError where nothing fits.
    """
    most = max(LANES, rounded(n, LANES))
    blocks = replace(blocks, n=min(blocks.n, most))
    while vmem_bytes(kernel, blocks, d, size) > limit:
        if max(blocks.n, blocks.v) <= LANES:
            raise ValueError(f"a block of {LANES} x {LANES} at width {d} does not fit {limit} bytes of VMEM")
        smaller = {"n": blocks.n // 2} if blocks.n >= blocks.v else {"v": blocks.v // 2 // LANES * LANES}
        blocks = replace(blocks, **smaller)
    subs = range(min(blocks.sub, blocks.n) // LANES * LANES, 0, -LANES)
    return replace(blocks, sub=next(s for s in subs if blocks.n % s == 0))
