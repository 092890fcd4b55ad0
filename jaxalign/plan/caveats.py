"""What a plan cannot know, in sentences: a reader must not take an estimate for a measurement."""

from collections.abc import Collection

from jaxalign.plan import gpu
from jaxalign.plan.chips import Topology

TPU = ("Times are estimates, of the compiled program at published speeds; no TPU ran.",)

GPU = (
    "Compiled without a GPU: nothing is autotuned, so algorithms of matrix products, their workspace and with it the "
    "temporaries are not exactly those of a run.",
    "Memory is XLA's own analysis; its GPU compiler refuses no program for its size, and what cuBLAS, NCCL and the "
    "CUDA context take is not in it.",
    "A run has the memory that is counted on here only with XLA_PYTHON_CLIENT_MEM_FRACTION=0.95 in its environment: "
    "JAX takes 75 % of a GPU unless told otherwise.",
    "Times are estimates, of the compiled program at published speeds, collectives at those of NVLink and of the "
    "network in chips.json; no GPU ran.",
)


FEATURES = (
    "Rows of the pass through the frozen trunk are planned as one group each; a run puts up to 16 different answers of "
    "a prompt into a row, which takes less time, and more memory than is counted here.",
)


def caveats(topology: Topology, programs: Collection[str] = ()) -> tuple[str, ...]:
    """What is estimated rather than compiled, and what is not known, of a plan of `programs` for a topology."""
    known = GPU if topology.generation in gpu.generations() else TPU
    return known + (FEATURES if "features" in programs else ())
