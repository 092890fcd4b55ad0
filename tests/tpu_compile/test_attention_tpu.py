"""The attention kernels at the sizes of real models, compiled by the TPU compiler for devices not here."""

import pytest

pytest.importorskip("libtpu", reason="needs the TPU compiler: pip install libtpu")

from visited import Row, compiled, product_share, share_of_peak

# a compilation takes a minute, on a machine busy with other work several
pytestmark = [pytest.mark.tpu_compile, pytest.mark.timeout(1800)]

LLAMA = {"v5p": Row("v5p", 4096, 8, 4, 128), "v6e": Row("v6e", 4096, 8, 4, 128)}
PASSES = {"forward": ("forward",), "forward and backward": ("forward", "backward")}

SHARE = {
    "v5p": {"forward": 0.61, "forward and backward": 0.72},
    "v6e": {"forward": 0.245, "forward and backward": 0.33},
}
"""Least share of the matrix units' peak, of the pairs that see each other, about a point below what was counted"""


@pytest.mark.parametrize("passes", PASSES)
@pytest.mark.parametrize("generation", SHARE)
def test_share_of_the_matrix_units_peak(generation: str, passes: str) -> None:
    """4·h operations forward for each pair of tokens and query head, 14·h with the backward pass."""
    row = LLAMA[generation]
    found = compiled(row)
    pairs, visited = share_of_peak(row, found, PASSES[passes])
    print(f"{found.cycles}, {100 * pairs:.1f} % of peak, blocks counted whole {100 * visited:.1f} %")
    assert pairs >= SHARE[generation][passes]


@pytest.mark.parametrize(
    "row",
    [
        Row("v6e", 4096, 4, 2, 256, cap=50.0, window=1024),
        Row("v5p", 1000, 2, 4, 80),
        Row("v6e", 700, 3, 3, 64),
        Row("v5p", 600, 1, 2, 128, dtype="float32"),
    ],
    ids=["gemma 2", "heads of 80, odd rows", "heads of 64, three of each", "fp32"],
)
def test_compiles_for_every_head_size_without_scores(row: Row) -> None:
    found = compiled(row)
    assert f"{row.s},{row.s}" not in found.text
    # operands and gradients in the kernels' layouts: nothing of a row's pairs
    assert found.temporary < 16 * row.s * row.k * (row.g + 2) * max(row.h, 128) + (8 << 20)


PRODUCTS = {"head contracted": (1024, 128, 1024), "a head wide": (1024, 1024, 128), "a head of rows": (128, 1024, 1024)}


@pytest.mark.parametrize(
    ("generation", "least", "most"),
    [
        ("v5p", {"head contracted": 0.85, "a head wide": 0.85, "a head of rows": 0.85}, 1.0),
        ("v6e", {"head contracted": 0.35, "a head wide": 0.35, "a head of rows": 0.55}, 0.65),
    ],
)
def test_what_products_with_heads_of_128_reach(generation: str, least: dict[str, float], most: float) -> None:
    """The matrix units of v6e are 256 by 256: what contracts over a head, or is a head wide, fills half of them."""
    for name, size in PRODUCTS.items():
        share = product_share(generation, *size)
        print(f"{generation}, {name}: {100 * share:.1f} % of peak")
        assert least[name] <= share < (0.5 if generation == "v6e" and name != "a head of rows" else most)
