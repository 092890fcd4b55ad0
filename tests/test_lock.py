"""One live run a directory: kernels that hold locks, and leases where there is none."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from etils import epath
from made_artifacts import CONFIG

from jaxalign.errors import CheckpointError
from jaxalign.storage import lock, rundir

HOLD = """
import sys
from etils import epath
from jaxalign.storage import lock
held = lock.RunLock(epath.Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-c", HOLD, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


@dataclass
class Clock:
    """Stands in for `time`: sleeping moves it, and lets `others` live meanwhile."""

    now: float = 0.0
    others: Callable[[], object] = lambda: None
    slept: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)
        self.others()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(lock, "time", made)
    return made


def test_a_second_run_is_refused_at_once_and_names_the_first(
    tmp_path: Path, holder: subprocess.Popen, clock: Clock
) -> None:
    with pytest.raises(CheckpointError, match=f"in use by process {holder.pid} on "):
        rundir.open_run(tmp_path, CONFIG)
    assert clock.slept == []
    holder.kill()
    holder.wait()
    rundir.open_run(tmp_path, CONFIG).close()


@pytest.fixture
def leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a bucket, where no kernel holds locks; the thread that gives signs of life waits for its turn for ever."""
    monkeypatch.setattr(lock, "fcntl", None)
    monkeypatch.setattr(lock, "BEAT", 1e9)


def words(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(lock.myself() | changes))


@pytest.mark.usefixtures("leases")
def test_without_flock_a_holder_that_renews_its_words_is_believed(tmp_path: Path, clock: Clock) -> None:
    path = epath.Path(tmp_path / "lock")
    held = lock.RunLock(path)
    clock.others = held.beat
    with pytest.raises(CheckpointError, match=f"in use by process {os.getpid()} on "):
        lock.RunLock(path)
    assert clock.now < lock.LEASE
    clock.others = lambda: None
    held.release()
    assert not path.exists()
    lock.RunLock(path).release()


@pytest.mark.usefixtures("leases")
@pytest.mark.parametrize(
    "changes",
    [
        {"host": "another-machine"},
        {},
        {"boot": "another", "pid": 2**22 + 1},
        {"space": "pid:[1]", "pid": 2**22 + 1},
    ],
    ids=["another host", "the same pid, restarted", "another of this name", "another container of this name"],
)
def test_without_flock_a_holder_that_gives_no_sign_of_life_is_replaced(
    tmp_path: Path, changes: dict, clock: Clock
) -> None:
    words(tmp_path / "lock", started="long ago", **changes)
    held = lock.RunLock(epath.Path(tmp_path / "lock"))
    assert clock.now >= lock.LEASE
    assert json.loads((tmp_path / "lock").read_text())["started"] != "long ago"
    held.release()


@pytest.mark.usefixtures("leases")
def test_without_flock_a_holder_that_lets_go_is_followed(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "lock"
    words(path, host="another-machine")
    clock.others = lambda: path.unlink() if len(clock.slept) == 1 else None
    lock.RunLock(epath.Path(path)).release()
    assert clock.now < lock.LEASE


@pytest.mark.usefixtures("leases")
def test_without_flock_a_holder_that_has_died_here_is_replaced_at_once(tmp_path: Path, clock: Clock) -> None:
    words(tmp_path / "lock", pid=2**22 + 1)
    held = lock.RunLock(epath.Path(tmp_path / "lock"))
    assert clock.now < 2  # the moment in which two that found it free would see one another
    assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    held.release()


@pytest.mark.usefixtures("leases", "clock")
def test_a_holder_whose_words_were_replaced_leaves_those_of_the_other(tmp_path: Path) -> None:
    held = lock.RunLock(epath.Path(tmp_path / "lock"))
    assert held.beat()
    words(tmp_path / "lock", host="another-machine")
    assert not held.lost
    assert not held.beat()
    assert "in use by" in held.lost
    held.release()
    assert json.loads((tmp_path / "lock").read_text())["host"] == "another-machine"


@pytest.mark.usefixtures("leases", "clock")
def test_a_bucket_that_does_not_answer_once_ends_no_lease(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held = lock.RunLock(epath.Path(path))
    written = path.read_text()
    path.write_text("")
    assert held.beat()
    path.write_text(written)
    assert held.beat()
    assert json.loads(path.read_text())["beats"] == 1
    held.release()


@pytest.mark.usefixtures("leases")
def test_of_two_that_find_it_free_at_once_the_later_words_count(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "lock"
    clock.others = lambda: words(path, host="another-machine")
    with pytest.raises(CheckpointError, match="on another-machine"):
        lock.RunLock(epath.Path(path))


def test_one_process_cannot_open_a_run_twice(tmp_path: Path) -> None:
    with rundir.open_run(tmp_path, CONFIG), pytest.raises(CheckpointError, match=f"process {os.getpid()}"):
        rundir.open_run(tmp_path, CONFIG)
