"""Every file operation of a run's own saves fails once, in every way that a disk can: nothing, or all of it, is there.

Of artifacts, config, inputs, summary and metrics. What Orbax saves takes longer: `tests/chaos`.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from made_faults import KINDS, compiled

SWEEP = pathlib.Path(__file__).parent / "chaos" / "faults.py"


def test_every_operation_of_a_save_may_fail(tmp_path):
    library = compiled(tmp_path)
    if library is None:
        pytest.skip("no C compiler")
    command = [sys.executable, str(SWEEP), "saves", "1000", "artifacts", "documents", "metrics"]
    environment = os.environ | {"LD_PRELOAD": str(library)}
    if os.path.isdir("/dev/shm"):
        environment["CHAOS_DIR"] = "/dev/shm"  # where a sync costs nothing
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    trials = [json.loads(line) for line in done.stdout.splitlines()]
    assert [trial for trial in trials if trial["outcome"] != "right"] == []
    assert {trial["kind"] for trial in trials} == {*KINDS}
    assert len(trials) > 200
