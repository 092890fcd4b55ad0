"""`jaxalign bench attention` as a whole, at a size that takes no time."""

import json

import pytest

from jaxalign.__main__ import main
from jaxalign.bench.attention import DENSE, TORCH


@pytest.mark.parametrize("trees", ["causal", "pairs"])
def test_every_implementation_has_a_row(trees: str, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"tokens": 640, "kv-heads": 1, "group": 2, "head": 8, "repeats": 1, "trees": trees}
    main(["bench", "attention", "--json", *(word for name, size in sizes.items() for word in (f"--{name}", str(size)))])
    rows = {row["implementation"]: row for row in json.loads(capsys.readouterr().out)}
    torch = rows.pop(TORCH, {})
    assert torch == {} if trees == "pairs" else "forward_ms" in torch or "not installed" in torch["skipped"]
    assert list(rows) == [DENSE, "blockwise"]
    for row in rows.values():
        assert row["forward_ms"] > 0
        assert row["forward_backward_ms"] > 0
        # fp32 averages of values of size 1
        assert row["max_error"] < 1e-5
        # a text sees all that stands before it; of pairs, a branch does not see the other
        assert row["pairs"] == 640 * 641 // 2 if trees == "causal" else 0 < row["pairs"] < 640 * 641 // 2


def test_what_kernels_visit_of_a_causal_row(capsys: pytest.CaptureFixture[str]) -> None:
    main(["bench", "attention", "--json", "--visits", "--tokens", "1024", "--head", "8"])
    rows = {(row["queries"], row["keys"], row["part"]): row for row in json.loads(capsys.readouterr().out)}
    # two blocks of queries and keys: a whole one, and two on the diagonal, of whose four parts one is not seen
    assert rows[512, 512, 256]["visits"] == 3
    assert rows[512, 512, 256]["whole"] == 1
    assert rows[512, 512, 256]["parts"] == 6
    assert rows[512, 512, 512]["parts"] == 2
    assert rows[512, 512, 256]["computed_over_seen"] == pytest.approx((4 + 6) * 256**2 / (1024 * 1025 / 2))
