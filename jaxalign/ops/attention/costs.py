"""What the op costs a device: FLOPs of its kernels, by names that say how much they do."""

import re

from jaxalign.ops.attention.tuning import tuning
from jaxalign.ops.costs import KernelCost, share_of_bf16

PRODUCTS = {"forward": 2, "backward": 5}
"""Kernel → matrix products of queries, keys and head size: q kᵀ and p v; backward q kᵀ, do vᵀ, doᵀ p, qᵀ dz, dz k."""

_NAME = re.compile(r"attention_(forward|backward)_(\d+)_visits_of_(\d+)_by_(\d+)_by_(\d+)")


def kernel_name(kernel: str, visits: int, queries: int, keys: int, h: int) -> str:
    """What a kernel is called in compiled programs, where differentiation adds to it.

    visits: of all KV heads, as many as rows of one group each would have. A visit is `queries`, those of all heads that
    share a KV head, by `keys` by the head size `h`.
    """
    return f"attention_{kernel}_{visits}_visits_of_{queries}_by_{keys}_by_{h}"


def flops(kernel: str, visits: int, queries: int, keys: int, h: int) -> int:
    """FLOPs of a kernel's matrix products, blocks of which a part is masked counted whole."""
    return 2 * PRODUCTS[kernel] * visits * queries * keys * h


def kernel_cost(name: str, generation: str, itemsize: int) -> KernelCost | None:
    """Of one execution of the kernel that a compiled program for a TPU generation calls `name`, of numbers of
    `itemsize` bytes; None where it is none of this op's.

    Rows of many groups visit fewer blocks than the name says, for what they visit depends on the data.
    """
    found = _NAME.search(name)
    if found is None:
        return None
    sizes = (int(size) for size in found.groups()[1:])
    table = tuning()["pallas_tpu"]
    share = share_of_bf16(table[generation]["share"][found[1]], itemsize)
    return KernelCost(float(flops(found[1], *sizes)), share)
