"""What no setting can be, whatever its component says of it: numbers that are others where they are computed with."""

from collections.abc import Iterator
from typing import Any

LARGEST = 2**53
"""Beyond it a float no longer counts one by one."""
SMALLEST_FP32, LARGEST_FP32 = 2.0**-126, (2 - 2.0**-23) * 2.0**127
"""Least and greatest normal numbers."""
SEEDS = 2**32
"""A key of JAX holds 32 bits of a seed: two seeds that agree in them would draw the same."""
ITERATIONS = 100_000
"""More than any run has; each is planned and written down by itself."""


def range_problems(name: str, value: Any) -> Iterator[str]:
    """What is wrong with a number as the setting `name` of anything; annotations say where infinity is allowed."""
    if isinstance(value, bool):
        return
    if isinstance(value, int) and name == "seed":
        yield from (problem.removeprefix("seed ") for problem in seed_problems(value))
    elif isinstance(value, int) and abs(value) > LARGEST:
        yield "must lie within 2^53 on either side of 0"
    if isinstance(value, float) and 0 < abs(value) < SMALLEST_FP32:
        yield f"{value} is 0 in fp32, in which it is computed with"
    if isinstance(value, float) and LARGEST_FP32 < abs(value) < float("inf"):
        yield f"{value} is infinite in fp32, in which it is computed with"


def seed_problems(seed: int, name: str = "seed") -> Iterator[str]:
    """What is wrong with a seed."""
    if not 0 <= seed < SEEDS:
        yield f"{name} must lie in [0, 2^32), got {seed}"
