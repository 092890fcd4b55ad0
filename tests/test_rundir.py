"""Run directories: what is committed comes back bit by bit, whatever else happens comes back as nothing or an error."""

import dataclasses
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float, Int, Shaped

from jaxalign import artifact, lock, rundir, stop
from jaxalign.errors import CheckpointError, ConfigError
from jaxalign.types import Prompt

DTYPES = list(artifact._DTYPES.values())
CONFIG = {"seed": 0, "loss": {"eta": 0.1}, "hosts": ["a", "b"]}


@dataclasses.dataclass(frozen=True)
class Inner:
    name: str
    array: Shaped[np.ndarray, "..."]


@dataclasses.dataclass(frozen=True)
class Everything:
    prompts: tuple[Prompt, ...]
    texts: tuple[tuple[str, ...], ...]
    inners: tuple[Inner, ...]
    array: Shaped[np.ndarray, "..."]
    maybe: Shaped[np.ndarray, "..."] | None
    number: float
    count: int
    flag: bool
    by_name: dict[str, float]
    pair: tuple[int, str]


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """Any bits in any dtype: NaN payloads and subnormals too."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 3), max_size=3).map(tuple))
    size = int(np.prod(shape))
    if dtype.kind == "b":
        return np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)), bool).reshape(shape)
    raw = draw(st.binary(min_size=size * dtype.itemsize, max_size=size * dtype.itemsize))
    return np.frombuffer(raw, dtype).reshape(shape)


numbers = st.floats() | st.sampled_from([float("nan"), float("inf"), -0.0, 5e-324])
texts = st.text() | st.just("\ud800 half a pair, \u2028 and \0")
prompts = st.tuples(texts, st.lists(st.dictionaries(texts, texts, max_size=2), max_size=2).map(tuple))
values = st.builds(
    Everything,
    prompts=st.just(()),
    texts=st.lists(st.lists(texts, max_size=2).map(tuple), max_size=2).map(tuple),
    inners=st.lists(st.builds(Inner, texts, arrays()), max_size=2).map(tuple),
    array=arrays(),
    maybe=st.none() | arrays(),
    number=numbers,
    count=st.integers(),
    flag=st.booleans(),
    by_name=st.dictionaries(texts, numbers, max_size=3),
    pair=st.tuples(st.integers(), texts),
)


def same(one: object, other: object) -> bool:
    """Equality to the bit: of arrays dtype, shape and bytes, of floats NaN and the sign of zero."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if dataclasses.is_dataclass(one):
        return all(same(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one))
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return repr(one) == repr(other)


@dataclasses.dataclass(frozen=True)
class Small:
    x: Float[np.ndarray, " n"]
    ids: Int[np.ndarray, "n n"]
    text: str


def small(n: int = 3) -> Small:
    return Small(np.arange(n, dtype=np.float32), np.eye(n, dtype=np.int32), "word " * n)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 2 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True)
    if mount.returncode != 0:
        pytest.skip("mounting a small tmpfs needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[rundir.RunDir]:
    with rundir.open_run(tmp_path / "run", CONFIG) as opened:
        yield opened


# --------------------------------------------------------------------------------------------------------------
# Artifacts


@settings(deadline=None, max_examples=60)
@given(values, st.lists(prompts, max_size=2))
def test_what_is_encoded_is_decoded(value: Everything, asked: list) -> None:
    # Prompts are made here because the run-time check of annotations draws random numbers, which strategies must not.
    value = dataclasses.replace(value, prompts=tuple(Prompt(*fields) for fields in asked))
    assert same(artifact.decode(artifact.encode(value), Everything), value)


@settings(deadline=None, max_examples=20)
@given(values)
def test_equal_values_give_equal_bytes(value: Everything) -> None:
    again = artifact.decode(artifact.encode(value), Everything)
    turned = dataclasses.replace(again, by_name=dict(reversed(again.by_name.items())))
    assert artifact.encode(turned) == artifact.encode(value)


def test_strided_arrays_keep_their_order() -> None:
    value = dataclasses.replace(small(4), ids=np.arange(32, dtype=np.int32).reshape(4, 8)[::2, ::2].T)
    value = dataclasses.replace(value, x=value.x[:2])
    assert same(artifact.decode(artifact.encode(value), Small), value)


def test_a_phase_runs_once_and_returns_what_loading_gives(run: rundir.RunDir) -> None:
    made = []

    def make() -> Small:
        made.append(1)
        return small()

    assert not run.has(0, "groups")
    first, second = run.phase(0, "groups", make, Small), run.phase(0, "groups", make, Small)
    assert same(first, small())
    assert same(second, small())
    assert made == [1]
    assert run.has(0, "groups")
    assert not first.x.flags.writeable


def test_evals_are_plain_dicts(run: rundir.RunDir) -> None:
    loaded = run.phase("initial", "evals", lambda: {"win_rate": 0.5, "kl": float("inf")}, dict[str, float])
    assert loaded == {"win_rate": 0.5, "kl": float("inf")}


def test_an_unknown_kind_of_field_is_refused_by_name(run: rundir.RunDir) -> None:
    with pytest.raises(TypeError, match="why: set cannot be stored"):
        run.phase(0, "evals", lambda: {"why": {1}}, dict[str, set])
    with pytest.raises(TypeError, match="array: arrays of <U1 cannot be stored"):
        run.phase(0, "evals", lambda: Inner("a", np.array(["a"])), Inner)
    assert not run.has(0, "evals")


@pytest.mark.parametrize("name", ["", "..", "a/b", "policy", "fit", "Ünique", "x.parts"])
def test_names_of_phases_cannot_leave_their_place(run: rundir.RunDir, name: str) -> None:
    with pytest.raises(ValueError, match="no name for a phase"):
        run.phase(0, name, small, Small)


def test_an_absent_or_torn_marker_means_nothing_is_there(run: rundir.RunDir) -> None:
    run.phase(0, "groups", small, Small)
    marker = run.path / "0000" / "groups" / artifact.MARKER
    whole = marker.read_bytes()
    for length in range(0, len(whole) - 1, 37):
        marker.write_bytes(whole[:length])
        assert not run.has(0, "groups")
        with pytest.raises(CheckpointError, match="nothing is committed"):
            run.load(0, "groups", Small)
    assert same(run.phase(0, "groups", lambda: small(5), Small), small(5))
    marker.unlink()
    assert not run.has(0, "groups")


def test_every_flipped_byte_is_found(run: rundir.RunDir) -> None:
    run.phase(0, "groups", small, Small)
    dice = random.Random(0)
    for path in sorted((run.path / "0000" / "groups").iterdir()):
        whole = path.read_bytes()
        for place in dice.sample(range(len(whole)), 25):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << dice.randrange(8)
            path.write_bytes(bytes(damaged))
            if bytes(damaged) != whole and (path.name != artifact.MARKER or run.has(0, "groups")):
                with pytest.raises(CheckpointError, match=r"damaged|belongs|cannot be read"):
                    run.load(0, "groups", Small)
        path.write_bytes(whole)
    assert same(run.load(0, "groups", Small), small())


def test_an_artifact_in_anothers_place_is_refused(run: rundir.RunDir) -> None:
    run.phase(0, "groups", small, Small)
    (run.path / "0000").rename(run.path / "0001")
    with pytest.raises(CheckpointError, match="belongs to 0000/groups, not to 0001/groups"):
        run.load(1, "groups", Small)


def test_an_artifact_of_another_kind_is_refused(run: rundir.RunDir) -> None:
    run.phase(0, "groups", small, Small)
    with pytest.raises(CheckpointError, match="holds Small, not Inner"):
        run.load(0, "groups", Inner)


def test_parts_are_reused_and_leave_with_the_phase(run: rundir.RunDir) -> None:
    made: list[int] = []

    def part(k: int) -> Small:
        made.append(k)
        if len(made) == 3:
            raise KeyboardInterrupt
        return small(k + 1)

    def whole() -> Small:
        parts = run.parts(0, "rollouts")
        return Small(np.concatenate([parts.get(k, lambda k=k: part(k), Small).x for k in range(4)]), small(10).ids, "")

    with pytest.raises(KeyboardInterrupt):
        run.phase(0, "rollouts", whole, Small)
    assert not run.has(0, "rollouts")
    loaded = run.phase(0, "rollouts", whole, Small)
    assert made == [0, 1, 2, 2, 3]
    assert loaded.x.size == 10
    assert not (run.path / "0000" / "rollouts.parts").exists()


# --------------------------------------------------------------------------------------------------------------
# Failing writes


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
from jaxalign import artifact

root, kills, seed = epath.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
dice = random.Random(seed)

def value(k):
    return {f"name{i}": float(k) for i in range(300)}

def write():
    for k in range(100000):
        place = root / f"{k:05d}"
        if not artifact.committed(place):
            artifact.commit(place, place.name, value(k))

for kill in range(kills):
    child = os.fork()
    if child == 0:
        write()
    time.sleep(dice.uniform(0.002, 0.1))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    whole = [p for p in sorted(root.iterdir()) if artifact.committed(p)] if root.exists() else []
    assert [int(p.name) for p in whole] == list(range(len(whole))), "holes"
    for place in whole:
        assert artifact.read(place, place.name, dict[str, float]) == value(int(place.name))
torn = len(list(root.iterdir())) - len(whole)
print(len(whole), torn)
"""


def test_sigkill_at_random_times_leaves_whole_artifacts_only(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", KILL, str(tmp_path / "run"), "25", "0"], capture_output=True, text=True, timeout=60
    )
    assert found.returncode == 0, found.stderr
    assert int(found.stdout.split()[0]) > 0  # enough was written for the kills to have met something


# --------------------------------------------------------------------------------------------------------------
# Whose directory?


def test_another_config_is_refused_with_what_differs(tmp_path: Path) -> None:
    rundir.open_run(tmp_path, CONFIG).close()
    before = (tmp_path / "config.json").read_bytes()
    rundir.open_run(tmp_path, CONFIG).close()
    other = {"seed": 0, "loss": {"eta": 0.2}, "hosts": ["a", "b"], "new": True}
    with pytest.raises(ConfigError) as refused:
        rundir.open_run(tmp_path, other)
    assert "loss.eta: 0.1 in the run, 0.2 now" in str(refused.value)
    assert "new" in str(refused.value)
    assert "seed" not in str(refused.value)
    assert (tmp_path / "config.json").read_bytes() == before
    rundir.open_run(tmp_path, CONFIG).close()  # the refusal let go of the lock


def test_a_directory_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ConfigError, match=r"no run directory.*thesis"):
        rundir.open_run(tmp_path, CONFIG)
    with pytest.raises(ConfigError, match="is a file"):
        rundir.open_run(tmp_path / "thesis.tex", CONFIG)
    with pytest.raises(ConfigError, match="no run directory"):
        rundir.read_run(tmp_path)


def test_a_damaged_config_is_refused(tmp_path: Path) -> None:
    rundir.open_run(tmp_path, CONFIG).close()
    (tmp_path / "config.json").write_text('{"seed": 0,')
    with pytest.raises(CheckpointError, match=r"config\.json: damaged"):
        rundir.open_run(tmp_path, CONFIG)


def test_a_run_that_is_only_read_is_not_written(run: rundir.RunDir) -> None:
    run.phase(0, "groups", small, Small)
    reader = rundir.read_run(run.path)
    assert reader.config == CONFIG
    assert same(reader.phase(0, "groups", small, Small), small())
    for write in (lambda: reader.phase(1, "groups", small, Small), lambda: reader.write_summary({})):
        with pytest.raises(CheckpointError, match="reading only"):
            write()


def test_the_summary_is_json(run: rundir.RunDir) -> None:
    run.write_summary({"win_rate_vs_base": 0.6})
    assert json.loads((run.path / "summary.json").read_bytes()) == {"win_rate_vs_base": 0.6}


# --------------------------------------------------------------------------------------------------------------
# Lock

HOLD = """
import sys, time
from etils import epath
from jaxalign import lock
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


def test_without_flock_the_words_in_the_file_decide(
    tmp_path: Path, holder: subprocess.Popen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "fcntl", None)
    path = epath.Path(tmp_path / "lock")
    with pytest.raises(CheckpointError, match=f"process {holder.pid} on .*if that process is gone, delete"):
        lock.RunLock(path)
    elsewhere = json.loads(path.read_text()) | {"host": "another-machine"}
    holder.kill()
    holder.wait()
    held = lock.RunLock(path)
    assert json.loads(path.read_text())["pid"] == os.getpid()
    held.release()
    assert not path.exists()
    path.write_text(json.dumps(elsewhere))
    with pytest.raises(CheckpointError, match="on another-machine"):
        lock.RunLock(path)
    path.write_text(json.dumps(elsewhere | {"host": json.loads(json.dumps(lock._self()))["host"], "boot": "before"}))
    lock.RunLock(path).release()


def test_one_process_cannot_open_a_run_twice(run: rundir.RunDir) -> None:
    with pytest.raises(CheckpointError, match=f"process {os.getpid()}"):
        rundir.open_run(run.path, CONFIG)


# --------------------------------------------------------------------------------------------------------------
# Stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_and_the_old_handlers_return(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop.stop_on_signal() as stop_requested:
        assert not stop_requested()
        os.kill(os.getpid(), number)
        assert stop_requested()
    assert signal.getsignal(number) is before


INSIST = """
import os, signal
from jaxalign import stop
with stop.stop_on_signal():
    os.kill(os.getpid(), signal.SIGINT)
    print("still here", flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    print("never")
"""


def test_the_second_interrupt_kills() -> None:
    found = subprocess.run([sys.executable, "-c", INSIST], capture_output=True, text=True, timeout=60)
    assert found.returncode == -signal.SIGINT
    assert found.stdout == "still here\n"


LEAVE = """
import threading, time
from jaxalign import stop
threading.Thread(target=time.sleep, args=(300,)).start()
print("last words")
stop.leave(5)
"""


def test_leaving_waits_for_no_thread_and_loses_no_words() -> None:
    found = subprocess.run([sys.executable, "-c", LEAVE], capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stdout) == (5, "last words\n")
