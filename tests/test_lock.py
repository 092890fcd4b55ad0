"""One live run a directory: kernels that hold locks, and leases where there is none."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from etils import epath
from made_artifacts import CONFIG

from jaxalign.errors import CheckpointError
from jaxalign.storage import lock, rundir

HOLD = """
import sys, time
from etils import epath
from jaxalign.storage import lock
held = lock.RunLock(epath.Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen]:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "lock")], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_a_second_run_is_refused_at_once_and_names_the_first(tmp_path: Path, holder: subprocess.Popen) -> None:
    began = time.monotonic()
    with pytest.raises(CheckpointError, match=f"in use by process {holder.pid} on "):
        rundir.open_run(tmp_path, CONFIG)
    assert time.monotonic() - began < 1
    holder.kill()
    holder.wait()
    rundir.open_run(tmp_path, CONFIG).close()


@pytest.fixture
def leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a bucket, where no kernel holds locks, and quicker."""
    monkeypatch.setattr(lock, "fcntl", None)
    monkeypatch.setattr(lock, "BEAT", 0.05)
    monkeypatch.setattr(lock, "LEASE", 1.0)


def words(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(lock._self() | changes))


@pytest.mark.usefixtures("leases")
def test_without_flock_a_holder_that_renews_its_words_is_believed(tmp_path: Path) -> None:
    path = epath.Path(tmp_path / "lock")
    held = lock.RunLock(path)
    with pytest.raises(CheckpointError, match=f"in use by process {os.getpid()} on "):
        lock.RunLock(path)
    held.release()
    assert not path.exists()
    lock.RunLock(path).release()


@pytest.mark.usefixtures("leases")
@pytest.mark.parametrize("changes", [{"host": "another-machine"}, {}], ids=["another host", "the same pid, restarted"])
def test_without_flock_a_holder_that_gives_no_sign_of_life_is_replaced(tmp_path: Path, changes: dict) -> None:
    words(tmp_path / "lock", started="long ago", **changes)
    held = lock.RunLock(epath.Path(tmp_path / "lock"))
    assert json.loads((tmp_path / "lock").read_text())["started"] != "long ago"
    held.release()


@pytest.mark.usefixtures("leases")
@pytest.mark.parametrize("changes", [{"boot": "before"}, {"pid": 2**22 + 1}], ids=["rebooted", "dead"])
def test_without_flock_a_holder_that_cannot_live_is_replaced_at_once(
    tmp_path: Path, changes: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "LEASE", 600.0)
    words(tmp_path / "lock", **changes)
    began = time.monotonic()
    held = lock.RunLock(epath.Path(tmp_path / "lock"))
    assert time.monotonic() - began < 60
    assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    held.release()


@pytest.mark.usefixtures("leases")
def test_a_holder_whose_words_were_replaced_leaves_those_of_the_other(tmp_path: Path) -> None:
    held = lock.RunLock(epath.Path(tmp_path / "lock"))
    words(tmp_path / "lock", host="another-machine")
    time.sleep(0.3)
    held.release()
    assert json.loads((tmp_path / "lock").read_text())["host"] == "another-machine"


def test_one_process_cannot_open_a_run_twice(tmp_path: Path) -> None:
    with rundir.open_run(tmp_path, CONFIG), pytest.raises(CheckpointError, match=f"process {os.getpid()}"):
        rundir.open_run(tmp_path, CONFIG)
