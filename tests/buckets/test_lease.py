"""The lease of a run in a bucket: one writer, whoever dies, comes late or loses its connection."""

import json
import os
import threading
import time

import pytest
from etils import epath
from made_bucket import Bucket

from jaxalign.errors import CheckpointError
from jaxalign.storage import bucket as objects
from jaxalign.storage import lease, lock, rundir
from jaxalign.storage.lease import Lease

CONFIG = {"seed": 0, "loss": {"eta": 0.5}}


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    """Seconds in place of minutes."""
    monkeypatch.setattr(lease, "BEAT", 0.2)
    monkeypatch.setattr(lease, "LEASE", 1.5)


@pytest.fixture
def path(root) -> epath.Path:
    objects.check(epath.Path(root))
    return epath.Path(root) / "lock"


def words(path: epath.Path, **changes: object) -> None:
    path.write_text(json.dumps(lock.myself() | changes))


def test_an_object_is_written_over_what_was_read_and_nothing_else(path):
    assert objects.read(path) == (b"", objects.ABSENT)
    first = objects.write_over(path, b"one", objects.ABSENT)
    assert first is not None
    assert objects.read(path) == (b"one", first)
    assert objects.write_over(path, b"two", objects.ABSENT) is None
    second = objects.write_over(path, b"two", first)
    assert second not in (None, first)
    assert objects.write_over(path, b"three", first) is None
    assert objects.read(path) == (b"two", second)


def test_of_many_that_want_a_run_one_gets_it(path):
    found = []

    def take(number: int) -> None:
        found.append(objects.write_over(path, str(number).encode(), objects.ABSENT))

    threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([each for each in found if each is not None]) == 1


def test_a_second_run_is_refused_and_names_the_first(path):
    held = Lease(path)
    with pytest.raises(CheckpointError, match=f"in use by process {os.getpid()} on "):
        Lease(path)
    assert not held.lost
    held.release()
    began = time.monotonic()
    Lease(path).release()
    assert time.monotonic() - began < lease.LEASE


def test_a_holder_that_says_nothing_is_replaced_and_one_that_let_go_at_once(path, capsys):
    words(path, host="another-machine", started="long ago")
    began = time.monotonic()
    held = Lease(path)
    assert time.monotonic() - began >= lease.LEASE
    assert "process" in capsys.readouterr().err
    held.release()
    assert lock.parsed(objects.read(path)[0]) is None


def test_another_machine_of_the_same_name_is_watched(path):
    words(path, boot="another", pid=2**22 + 1)
    began = time.monotonic()
    Lease(path).release()
    assert time.monotonic() - began >= lease.LEASE


def test_a_holder_that_has_died_here_is_replaced_at_once(path):
    words(path, pid=2**22 + 1)
    began = time.monotonic()
    Lease(path).release()
    assert time.monotonic() - began < lease.LEASE


def test_a_holder_that_was_replaced_writes_nothing_more(path, monkeypatch):
    monkeypatch.setattr(lease, "BEAT", 1e9)
    held = Lease(path)
    words(path, host="another-machine", started="later")
    assert not held.beat()
    assert "another-machine" in held.lost
    held.release()
    assert json.loads(path.read_text())["host"] == "another-machine"


def test_a_holder_that_a_bucket_does_not_hear_stops_before_another_may_take_over(path, bucket: Bucket):
    held = Lease(path)
    bucket.silent = True
    until = time.monotonic() + 5
    while not held.lost:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert "no sign of life" in held.lost
    bucket.silent = False
    held.release()


def test_a_write_whose_answer_was_lost_is_ones_own(path, bucket: Bucket):
    """gcsfs asks again, and is told that there is another generation by now: its own."""
    bucket.lose.add("/".join(path.parts[-2:]))
    first = objects.write_over(path, b"mine", objects.ABSENT)
    assert objects.read(path) == (b"mine", first)


def test_a_run_whose_lease_is_lost_commits_nothing(root, monkeypatch):
    monkeypatch.setattr(lease, "BEAT", 1e9)
    run = rundir.open_run(root, CONFIG)
    run.phase("initial", "first", lambda: {"x": 1.0}, dict[str, float])
    words(run.path / "lock", host="another-machine", started="later")
    assert not run._lock.beat()
    with pytest.raises(CheckpointError, match=r"another-machine.*writes nothing more"):
        run.phase("initial", "second", lambda: {"x": 1.0}, dict[str, float])
    assert not run.has("initial", "second")
    run.close()
