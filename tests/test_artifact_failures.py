"""Artifacts when the disk or the process fails while they are written: nothing, or all of them."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from made_artifacts import CONFIG, Small, same, small

from jaxalign.errors import CheckpointError
from jaxalign.storage import artifact, rundir


class Killed(BaseException):
    """Stands for the death of the process: no handler for errors runs."""


OPERATIONS = ("fsync", "replace", "mkdir")


def fail_at(monkeypatch: pytest.MonkeyPatch, number: int, failure: BaseException) -> None:
    """Lets the operation of that number, and all after it, fail."""
    count = 0

    def failing(name: str):
        original = getattr(os, name)

        def operation(*args, **kwargs):
            nonlocal count
            count += 1
            if count > number:
                raise failure
            return original(*args, **kwargs)

        return operation

    for name in OPERATIONS:
        monkeypatch.setattr(os, name, failing(name))


@pytest.mark.parametrize(
    "failure", [Killed(), OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "")]
)
def test_dying_or_failing_at_every_file_operation_leaves_nothing_or_all(tmp_path: Path, failure: BaseException) -> None:
    for number in range(30):
        directory = epath.Path(tmp_path / str(number) / "0000" / "groups")
        with pytest.MonkeyPatch.context() as monkeypatch:
            fail_at(monkeypatch, number, failure)
            try:
                artifact.commit(directory, "0000/groups", small())
                whole = True
            except (Killed, CheckpointError):
                whole = False
        # Death after the marker is written but before its directory is synced: the value is there, as it should be.
        assert artifact.committed(directory) or not whole
        if artifact.committed(directory):
            assert same(artifact.read(directory, "0000/groups", Small), small())
        artifact.commit(directory, "0000/groups", small(4))
        assert same(artifact.read(directory, "0000/groups", Small), small(4))
        if whole:
            return
    pytest.fail("the write never succeeded")


def test_a_full_disk_is_told_with_what_is_needed_and_free(small_disk: Path) -> None:
    with rundir.open_run(small_disk / "run", CONFIG) as run:
        run.phase(0, "groups", small, Small)
        filler = small_disk / "filler"
        filler.write_bytes(b"x" * 1_500_000)
        big = Small(np.zeros(400_000, np.float32), small(1).ids, "")
        with pytest.raises(CheckpointError, match=r"no space left.*1\.6 MB needed, 0\.\d MB free"):
            artifact.commit(run.path / "0001" / "groups", "0001/groups", big)
        assert not run.has(1, "groups")
        assert same(run.load(0, "groups", Small), small())
        filler.unlink()
        artifact.commit(run.path / "0001" / "groups", "0001/groups", small(2))
        assert same(run.load(1, "groups", Small), small(2))


KILL = """
import os, random, signal, sys, time
import numpy as np
from etils import epath
from jaxalign.storage import artifact

root, kills, seed = epath.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
dice = random.Random(seed)

def value(k):
    return {f"name{i}": float(k) for i in range(300)}

def write():
    for k in range(100000):
        place = root / f"{k:05d}"
        if not artifact.committed(place):
            artifact.commit(place, place.name, value(k))

read = 0
for kill in range(kills + 1):
    child = os.fork()
    if child == 0:
        write()
    time.sleep(dice.uniform(0.002, 0.03) if kill < kills else 0.1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    whole = [p for p in sorted(root.iterdir()) if artifact.committed(p)] if root.exists() else []
    assert [int(p.name) for p in whole] == list(range(len(whole))), "holes"
    for place in whole[read if kill < kills else 0 :]:  # all of them behind the last kill
        assert artifact.read(place, place.name, dict[str, float]) == value(int(place.name))
    read = len(whole)
torn = len(list(root.iterdir())) - len(whole)
print(len(whole), torn)
"""


def test_sigkill_at_random_times_leaves_whole_artifacts_only(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", KILL, str(tmp_path / "run"), "93", "0"], capture_output=True, text=True, timeout=60
    )
    assert found.returncode == 0, found.stderr
    assert int(found.stdout.split()[0]) > 0  # enough was written for the kills to have met something
