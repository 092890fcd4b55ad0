"""Cycles of a compiled kernel, counted in the schedule that the TPU compiler writes down.

The file has a line for each issue cycle of the program. A grid step of our kernels is straight-line code, so the lines
are its cycles, without what waiting for HBM may add. What starts and ends a sweep, clearing and writing an accumulator,
is a loop whose body stands there once although it runs many times, once a sweep; `sweep_cycles` bounds it from above.
"""

import atexit
import os
import re
import shutil
import tempfile
from pathlib import Path

from jaxalign.ops.linear_logp.blocks import Blocks
from jaxalign.ops.linear_logp.costs import PRODUCTS

SCHEDULES = Path(tempfile.mkdtemp(prefix="schedules-"))
"""where libtpu writes them, for this process"""

atexit.register(shutil.rmtree, SCHEDULES, ignore_errors=True)

MULTIPLY_ADDS = {"v5e": 4 * 128 * 128, "v5p": 4 * 128 * 128, "v6e": 4 * 256 * 256}
"""of the matrix units of one core in a cycle, bf16"""


def ask_for_schedules() -> None:
    """Sets what libtpu reads when it is loaded, which must be later; it needs no TPU and asks no network for one."""
    os.environ.update(
        LIBTPU_INIT_ARGS=" ".join(
            [
                os.environ.get("LIBTPU_INIT_ARGS", ""),
                f"--xla_jf_dump_to={SCHEDULES}",
                "--xla_jf_dump_llo_text=true",
                "--xla_jf_dump_llo_pass_label_regex=.*delay.*",
            ]
        ),
        TPU_SKIP_MDS_QUERY="1",
        TPU_ACCELERATOR_TYPE="v5litepod-8",
        TPU_WORKER_HOSTNAMES="localhost",
        ALLOW_MULTIPLE_LIBTPU_LOAD="1",
    )


def step_cycles(kernel: str, since: set[Path]) -> int:
    """Lines of the schedule of `kernel`, compiled after the files in `since` were there."""
    # differentiated, the names are jvp_logp_forward_row_.1 and transpose_jvp_logp_head__.1
    return len(cycles_of(rf"logp_{kernel}_*\.\d+-", since))


def cycles_of(kernel: str, since: set[Path]) -> list[dict[str, int]]:
    """Of each issue cycle of the kernel whose name `kernel` matches, how much of which unit is in use."""
    name = re.compile(rf"{kernel}.*pre-delay_hlo-static-per-bundle-utilization\.txt")
    (path,) = (path for path in set(SCHEDULES.iterdir()) - since if name.search(path.name))
    text = path.read_text()
    units = re.search(r"^(MATMUL|MXU).*$", text, re.MULTILINE).group(0).split(", ")
    lines = (line.split() for line in text.split("UTILIZATION:")[1].splitlines())
    read = [line for line in lines if len(line) == len(units) and line[0].isdigit()]
    return [dict(zip(units, map(int, line), strict=True)) for line in read]


def sweep_cycles(elements: int) -> int:
    """Clearing and writing an fp32 accumulator: a store for each register of 1024, then a load, a scaling, a store."""
    return 3 * elements // 1024


def kernel_cycles(kernel: str, step: int, blocks: Blocks, n: int, d: int, v: int) -> int:
    """All grid steps and sweeps of one call. Rows that do not fill a block, which XLA passes over, count as a block."""
    tokens, rows = -(-n // blocks.n), -(-v // blocks.v)
    swept = {"forward": 0, "forward_row": tokens * blocks.n * d, "head": rows * blocks.v * d}[kernel]
    return tokens * rows * step + sweep_cycles(swept)


def share_of_peak(generation: str, cycles: dict[str, int], n: int, d: int, v: int) -> float:
    """Multiply-adds of the products that these kernels make, over what the matrix units could make in their cycles."""
    needed = sum(PRODUCTS[kernel] for kernel in cycles) * n * d * v
    return needed / (MULTIPLY_ADDS[generation] * sum(cycles.values()))
