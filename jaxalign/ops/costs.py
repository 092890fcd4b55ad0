"""What the kernels of an op cost, in the terms that a plan prices: each op's `costs.py` answers for its own."""

from dataclasses import dataclass


@dataclass(frozen=True)
class KernelCost:
    """One execution of a kernel on one device."""

    flops: float
    share: float
    """of the device's peak, what the kernel is trusted to reach, in (0, 1]"""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or self.flops < 0:
            raise ValueError(f"share must lie in (0, 1] and flops be at least 0, got {self.share} and {self.flops}")


FP32_PASSES = 6
"""Products of bf16 that one of fp32 is made of at the highest precision, which kernels ask for (XLA's bf16_6x)."""


def share_of_bf16(share: float, itemsize: int) -> float:
    """Of the peak in bf16, what a kernel reaches on numbers of `itemsize` bytes that reaches `share` of it in bf16."""
    return share / FP32_PASSES if itemsize == 4 else share
