"""The kernels of `linear_logp` at a small size, compiled by the TPU compiler in seconds: a part of the ordinary tests.

What breaks the kernels for TPU, or costs them cycles, shows here; the sizes of real models are in
`test_linear_logp_tpu`.
"""

import pytest

pytest.importorskip("libtpu", reason="needs the TPU compiler: pip install libtpu")

from programs import Case, program
from schedule import share_of_peak

pytestmark = pytest.mark.timeout(300)

N, D, V = 2048, 512, 6400

SHARE = {
    ("v5e", "forward"): 0.78,
    ("v5e", "forward and backward"): 0.81,
    ("v5p", "forward"): 0.77,
    ("v5p", "frozen head"): 0.75,
    ("v5p", "forward and backward"): 0.78,
    ("v6e", "forward"): 0.59,
    ("v6e", "forward and backward"): 0.60,
}
"""Least share of the matrix units' peak, about two points below what was counted; small widths are bound by exp"""


@pytest.mark.parametrize(("generation", "passes"), SHARE)
def test_compiles_without_logits_and_loses_no_cycles(generation: str, passes: str) -> None:
    found = program(Case(generation, passes, N, D, V))
    share = share_of_peak(generation, found.cycles, N, D, V)
    print(f"{found.cycles} cycles, {100 * share:.1f} % of peak, {found.temporary >> 10} KiB of workspace")
    assert not [shape for shape in found.shapes if {N, V} <= set(shape)]
    assert found.temporary < N * V, "a quarter of the logits in fp32"
    assert share >= SHARE[generation, passes]


def test_compiles_with_the_vocabulary_over_four_devices() -> None:
    """With a soft-cap; each device has rows that do not fill a block."""
    found = program(Case("v5p", "forward and backward", N, D, V, softcap=30.0, shards=4))
    assert not [shape for shape in found.shapes if {N, V // 4} <= set(shape)]
    assert not [shape for shape in found.shapes if V in shape], "a device has the head, or its gradient, whole"
