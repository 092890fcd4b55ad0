"""The attention kernels with one query head a KV head, compiled by the TPU compiler: a part of the ordinary tests.

What breaks the kernels for TPU, or costs them cycles, shows here; the sizes of real models are in `test_attention_tpu`.
"""

import pytest

pytest.importorskip("libtpu", reason="needs the TPU compiler: pip install libtpu")

from visited import Row, compiled, share_of_peak

pytestmark = pytest.mark.timeout(600)

SHARE = {"v5p": 0.37}
"""Least share of the matrix units' peak, of the pairs that see each other, forward and backward, about two points below
what was counted; a visit of one head is short, and what is around it weighs more"""


@pytest.mark.parametrize("generation", SHARE)
def test_compiles_without_scores_and_loses_no_cycles(generation: str) -> None:
    row = Row(generation, 2048, 2, 1, 128)
    found = compiled(row)
    pairs, visited = share_of_peak(row, found, ("forward", "backward"))
    print(f"{found.cycles}, {100 * pairs:.1f} % of peak, blocks counted whole {100 * visited:.1f} %")
    assert "2048,2048" not in found.text
    assert pairs >= SHARE[generation]
