"""What a plan cannot know, in sentences: a reader must not take an estimate for a measurement."""

import math
from collections.abc import Sequence

from jaxalign.plan import gpu
from jaxalign.plan.chips import Topology
from jaxalign.plan.compiled import Compiled, TooLarge

TPU = ("Times are estimates of the compiled program; no TPU ran.",)

GPU = (
    "Compiled without a GPU: nothing is autotuned, so algorithms of matrix products, their workspace and with it the "
    "temporaries are not exactly those of a run.",
    "Memory is XLA's own analysis; its GPU compiler refuses no program for its size, and what cuBLAS, NCCL and the "
    "CUDA context take is not in it.",
    "A run has the memory that is counted on here only with XLA_PYTHON_CLIENT_MEM_FRACTION=0.95 in its environment: "
    "JAX takes 75 % of a GPU unless told otherwise.",
    "Times are estimates of the compiled program, collectives at the speeds of NVLink and of the network in "
    "chips.json; no GPU ran.",
)


FEATURES = (
    "Rows of the pass through the frozen trunk are planned as one group each; a run puts up to 16 different answers of "
    "a prompt into a row, which takes less time, and more memory than is counted here.",
)


SUMMED = (
    "The step's gradients are summed whole by all-reduces, twice the bytes of reduce-scatters: libtpu makes these of "
    "fsdp over all chips of a slice; with fsdp over a part of them, and data over the rest, they are scattered.",
)


def caveats(topology: Topology, programs: Sequence[Compiled | TooLarge] = ()) -> tuple[str, ...]:
    """What is estimated rather than compiled, and what is not known, of a plan of `programs` for a topology; and what
    the compiler made worse of them than it need have."""
    known = GPU if topology.generation in gpu.generations() else TPU
    features = FEATURES if any(each.name == "features" for each in programs) else ()
    return known + features + (SUMMED if any(map(_summed, programs)) else ())


def _summed(program: Compiled | TooLarge) -> bool:
    if program.name != "train" or isinstance(program, TooLarge):
        return False
    sent = {kind: of.bytes for kind, of in program.traffic.by_kind.items()}
    return "reduce-scatter" not in sent and sent.get("all-reduce", 0) > 0.1 * sent.get("all-gather", math.inf)
