"""The kernels of `linear_logp` at the sizes of real models, compiled by the TPU compiler for devices not here.

A case is one compilation, a quarter of a minute to a minute each on two quiet cores; a case that several tests read is
compiled once.
"""

import pytest

pytest.importorskip("libtpu", reason="needs the TPU compiler: pip install libtpu")

from programs import Case, program
from schedule import share_of_peak

# on a machine busy with other work a compilation takes minutes
pytestmark = [pytest.mark.tpu_compile, pytest.mark.timeout(1200)]

N = 8192
MODELS = {"llama 3": (4096, 128_256, None), "qwen 2.5": (3584, 152_064, None), "gemma 2": (3584, 262_144, 30.0)}
GENERATIONS = ("v5e", "v5p", "v6e")
PASSES = ("forward", "forward and backward")

SHARE = {
    "v5e": {"forward": 0.97, "frozen head": 0.965, "forward and backward": 0.965},
    "v5p": {"forward": 0.97, "frozen head": 0.955, "forward and backward": 0.955},
    "v6e": {"forward": 0.92, "frozen head": 0.91, "forward and backward": 0.905},
}
"""Least share of the matrix units' peak, about a point below what was counted"""

WORKSPACE = {"forward": 0.01, "forward and backward": 0.10}
"""Most workspace, as a share of the full-logits version's on the same device"""


def llama(generation: str, passes: str, full: bool = False) -> Case:
    d, v, softcap = MODELS["llama 3"]
    return Case(generation, passes, N, d, v, softcap, full=full)


@pytest.mark.parametrize("passes", PASSES)
@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("model", list(MODELS))
@pytest.mark.parametrize("generation", GENERATIONS)
def test_no_logits_anywhere(generation: str, model: str, shards: int, passes: str) -> None:
    """No buffer of the logits of a device's rows, in whatever order of axes or layout of tiles."""
    d, v, softcap = MODELS[model]
    found = program(Case(generation, passes, N, d, v, softcap, shards))
    print(f"{found.temporary / 2**20:.1f} MiB of workspace")
    # a device's part of the logits, whole or cut into tiles; the head and its gradient have v·d elements, not v·n
    assert not [shape for shape in found.shapes if {N, v // shards} <= set(shape)]
    assert found.temporary < 2 * N * v // shards, "a copy of a device's logits in bf16 would fit the workspace"


@pytest.mark.parametrize("passes", PASSES)
@pytest.mark.parametrize("generation", GENERATIONS)
def test_workspace_against_full_logits(generation: str, passes: str) -> None:
    """Temporary memory only: inputs, log-probs and gradients are the same in both."""
    ours, full = program(llama(generation, passes)), program(llama(generation, passes, full=True))
    share = ours.temporary / full.temporary
    print(f"{ours.temporary / 2**20:.1f} of {full.temporary / 2**20:.1f} MiB, {100 * share:.2f} %")
    assert (N, MODELS["llama 3"][1]) in full.shapes or (MODELS["llama 3"][1], N) in full.shapes
    assert share <= WORKSPACE[passes]


@pytest.mark.parametrize("passes", [*PASSES, "frozen head"])
@pytest.mark.parametrize("generation", GENERATIONS)
def test_share_of_the_matrix_units_peak(generation: str, passes: str) -> None:
    """2·n·d·v operations forward, 8 with the backward pass, 4 in all where the head is frozen."""
    case = llama(generation, passes)
    cycles = program(case).cycles
    share = share_of_peak(generation, cycles, case.n, case.d, case.v)
    print(f"{cycles} cycles, {100 * share:.1f} % of peak")
    assert share >= SHARE[generation][passes]
