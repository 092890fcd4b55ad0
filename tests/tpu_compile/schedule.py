"""Cycles of a compiled kernel, counted in the schedule that the TPU compiler writes down.

The file has a line for each issue cycle of the program. A grid step of our kernels is straight-line code, so the lines
are its cycles, without what waiting for HBM may add. What starts and ends a sweep, clearing and writing an accumulator,
is a loop whose body stands there once although it runs many times, once a sweep; `sweep_cycles` bounds it from above.
"""

import re
from pathlib import Path

MULTIPLY_ADDS = {"v5e": 4 * 128 * 128, "v5p": 4 * 128 * 128, "v6e": 4 * 256 * 256}
"""of the matrix units of one core in a cycle, bf16"""


def cycles(schedules: Path, kernel: str, since: set[Path]) -> int:
    """Lines of the schedule of `kernel`, compiled after the files in `since` were there."""
    pattern = f"*{kernel}*pre-delay_hlo-static-per-bundle-utilization.txt"
    (path,) = set(schedules.glob(pattern)) - since
    text = path.read_text()
    columns = len(re.search(r"^(MATMUL|MXU).*$", text, re.MULTILINE).group(0).split(", "))
    lines = (line.split() for line in text.split("UTILIZATION:")[1].splitlines())
    return sum(len(line) == columns and line[0].isdigit() for line in lines)


def sweep_cycles(elements: int) -> int:
    """Clearing and writing an fp32 accumulator: a store for each register of 1024, then a load, a scaling, a store."""
    return 3 * elements // 1024
