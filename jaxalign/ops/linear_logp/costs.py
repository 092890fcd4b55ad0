"""What the op costs a device: FLOPs of its kernels by the names they have in a compiled program, bytes of logits."""

import re

from jaxalign.ops.costs import KernelCost, share_of_bf16
from jaxalign.ops.linear_logp.sharded import OnMesh
from jaxalign.ops.linear_logp.tuning import tuning

PRODUCTS = {"forward": 1, "forward_row": 2, "head": 2}
"""Kernel → matrix products of n · d · v that it makes: the logits; with them the mean row p W, or the gradient dW."""

SHARE = 0.9
"""Of the peak, what the kernels are trusted to reach; the compiler's schedules have more (BENCHMARKS.md)."""

_NAME = re.compile(r"logp_(forward_row|forward|head)")


def kernel_name(kernel: str) -> str:
    """What a kernel is called in compiled programs, where differentiation adds to it (`jvp_logp_forward_row_`)."""
    return f"logp_{kernel}"


def flops(kernel: str, n: float | int, d: int, v: int) -> float | int:
    """FLOPs of a kernel's matrix products for n tokens and v rows of the head, of width d."""
    return 2 * PRODUCTS[kernel] * n * d * v


def kernel_cost(
    name: str, tokens: float | int, head: tuple[int, int], itemsize: int, layout: OnMesh | None
) -> KernelCost | None:
    """Of one execution of the kernel that a compiled program calls `name`; None where it is none of this op's.

    tokens: what all devices score together in one call of the op. head: its shape [v d], elements of `itemsize` bytes.
    The padding of tokens to blocks, and rows that fill no block and go to XLA, are not told apart.
    """
    found = _NAME.search(name)
    if found is None:
        return None
    v, d = head
    if layout is not None:
        tokens /= layout.devices(layout.tokens)
        v = layout.rows_of_a_piece(head, itemsize)
    return KernelCost(float(flops(found[1], tokens, d, v)), share_of_bf16(SHARE, itemsize))


def holds_all(platform: str, n: int, v: int) -> bool:
    """Whether all logits [n v] are held, because on one device of this platform that is faster."""
    return 4 * n * v <= tuning()["full_logits_bytes"][platform]


def logits_bytes(platform: str, n: int, v: int, alone: bool, trained: bool = True) -> int:
    """Bytes of logits, and where something is `trained` of their gradient, that a device has at once, for its n tokens
    and v rows of the head.

    All where they are held, else a chunk and what is kept for the backward pass; `alone`: there is no other device.
    Above what TPUs take, whose kernels write no logits.
    """
    whole, held = 4 * n * v, alone and holds_all(platform, n, v)
    if not trained:
        return whole if held else min(whole, 4 * n * tuning()["chunk"][platform])
    if held:
        return 2 * whole
    kept = tuning()["kept_logits_bytes"][platform] if alone else 0
    return 2 * min(whole, 4 * n * tuning()["chunk"][platform]) + min(whole, kept)
