"""`jaxalign bench logp` as a whole, at a size that takes no time."""

import json

import pytest

from jaxalign.__main__ import main
from jaxalign.bench.logp import FULL, LEAST, SIDES


def test_every_side_has_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    """Ours are measured and right; what is not installed says so and has no figures."""
    sizes = {"tokens": 64, "width": 32, "vocabulary": 600, "rounds": 1, "repeats": 1}
    main(["bench", "logp", "--json", *(word for name, size in sizes.items() for word in (f"--{name}", str(size)))])
    rows = {row["implementation"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == list(SIDES)
    ours = [rows[name] for name in SIDES if name.startswith("jaxalign")]
    measured = [row for row in rows.values() if "skipped" not in row]
    assert ours == measured[: len(ours)]
    for row in measured:
        assert row["backend"]
        assert row["forward_ms"] > 0
        assert row["forward_backward_ms"] > 0
        assert row["peak_bytes"] >= 0
        for key in LEAST:
            ratio, full = row[f"{key}_over_full"], rows[FULL][key]
            # ratios are rounded to 3 digits
            assert ratio == pytest.approx(row[key] / full, abs=1e-3) if full else ratio is None
    for row in ours:
        # fp32 sums of 600 terms of the size of 10 nats
        assert row["max_error"] < 1e-5
    for row in rows.values():
        if "skipped" in row:
            assert set(row) == {"implementation", "skipped"}
            assert "not installed" in row["skipped"]
