"""What a run leaves to read: metrics.jsonl, which a resumed run completes to the same bytes, and perf.jsonl.

A line of metrics.jsonl is `{"iteration": 1, "phase": "fit", "step": 12, "loss": 0.5, …}`: only values that the
config determines. Times, rates and memory go to perf.jsonl, which each run simply continues.

These files are the truth. Trackers are shown each place of either once: a launch that comes again to what an earlier
one recorded, be it with other rounding, shows nothing. What a tracker had not sent yet when its launch was killed, it
lacks.
"""

import collections
import contextlib
import json
import math
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from etils import epath

from jaxalign.config.resolved import redacted
from jaxalign.contracts.arrays import described
from jaxalign.contracts.tracking import Line, Tracker, Tracking
from jaxalign.errors import BrokenContract, CheckpointError, JaxalignError, first_line
from jaxalign.hosts.group import Hosts
from jaxalign.storage import bucket, durable, twice

_Key = tuple[int | str, str, int]


class Recorder:
    """Writes a run's metrics. One at a time for each run directory.

    A line is known by (iteration, phase, step), each logged once. A run that resumes may log again what is there:
    an equal line stays as it is; a line that differs takes with it everything after it. `tracking` are open trackers by
    name: one that raises is told of on stderr and not asked again in this launch. `devices` says how many compute, of
    all hosts, which what is measured of times is recorded with.
    """

    def __init__(
        self,
        run_dir: str | os.PathLike[str],
        tracking: Mapping[str, Tracking] = MappingProxyType({}),
        devices: Callable[[], int] | None = None,
    ):
        root = durable.absolute(run_dir)
        self._metrics = _Lines(root / "metrics.jsonl", copied=True)
        self._perf = _Lines(root / "perf.jsonl", copied=False)
        self._metrics.mend()
        self._logged: set[_Key] = set()
        self._tracking, self._devices = dict(tracking), devices

    def log(self, iteration: int | str, phase: str, step: int, metrics: Mapping[str, float]) -> None:
        """Appends one line of deterministic values. ValueError when this run has logged this place before."""
        key = (iteration, phase, step)
        if key in self._logged:
            raise ValueError(f"metrics of {phase} {iteration}, step {step}, were logged before")
        self._logged.add(key)
        line = _line(key, metrics)
        index = self._metrics.find(key)
        if index is not None and self._metrics.lines[index] == line:
            return
        if index is not None:
            self._metrics.cut(index)
        self._metrics.append(key, line)
        self._show(self._metrics, key, metrics)

    def perf(self, iteration: int | str, phase: str, step: int, metrics: Mapping[str, float]) -> None:
        """Appends one line of times (s), rates and memory; these differ from run to run."""
        key = (iteration, phase, step)
        if self._devices is not None:
            metrics = {**metrics, "perf/devices": self._devices()}
        self._perf.append(key, _line(key, metrics))
        self._show(self._perf, key, metrics)

    def flush(self) -> None:
        """Writes what is not written yet. Before anything is committed, so that what a resumed run does not log again
        is there; on a file system it always is."""
        self._metrics.flush()
        self._perf.flush()

    def close(self) -> None:
        """Closes the trackers, and completes the JSON files in a bucket; elsewhere they are at every moment."""
        try:
            self.flush()
        finally:
            for name, tracking in list(self._tracking.items()):
                self._ask(name, tracking.close)
            self._tracking.clear()

    def _show(self, lines: "_Lines", key: _Key, metrics: Mapping[str, float]) -> None:
        """Shows the line just appended to all trackers, if no launch has come to its place before."""
        if key in lines.shown:
            return
        lines.shown.add(key)
        order = self._metrics.places + self._perf.places - 1
        values = {name: float(value) for name, value in metrics.items()}
        line = Line(*key, metrics=values, nth=lines.counts[key[1]], order=order)
        for name, tracking in list(self._tracking.items()):
            self._ask(name, partial(tracking.log, line))

    def _ask(self, name: str, what: Callable[[], None]) -> None:
        """Whatever may go wrong with a tracker (a network, a quota, a bug), the run goes on."""
        try:
            what()
        except Exception as error:
            del self._tracking[name]
            _switched_off(name, error)


class Silent:
    """A recorder that writes nothing: that of all processes of a run but the first."""

    def log(self, iteration: int | str, phase: str, step: int, metrics: Mapping[str, float]) -> None:
        """Process 0 logs the same."""

    def perf(self, iteration: int | str, phase: str, step: int, metrics: Mapping[str, float]) -> None:
        """Process 0 logs its own."""

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is open."""


def open_recorder(
    run_dir: str | os.PathLike[str],
    trackers: Iterable[Tracker],
    config: Mapping[str, Any],
    hosts: Hosts,
    devices: Callable[[], int] | None = None,
) -> Recorder | Silent:
    """What this process of a run records with: process 0 for all of them.

    Raises the JaxalignError of a tracker that cannot be opened as it is configured; one that fails in another way (a
    service that does not answer) is told of on stderr and left out.
    """
    if not hosts.leader:
        return Silent()
    tracking: dict[str, Tracking] = {}
    try:
        for index, tracker in enumerate(trackers):
            name = f"trackers.{index} ({type(tracker).__name__})"
            try:
                opened: Any = tracker.open(durable.absolute(run_dir), config)
                if not isinstance(opened, Tracking):
                    raise BrokenContract(f"{name}: open must return what has log and close, got {described(opened)}")
                tracking[name] = opened
            except JaxalignError:
                raise
            except Exception as error:
                _switched_off(name, error)
        return Recorder(run_dir, tracking, devices)
    except BaseException:
        for one in tracking.values():
            with contextlib.suppress(Exception):
                one.close()
        raise


def _switched_off(name: str, error: Exception) -> None:
    why = f"{name}: {type(error).__name__}: {first_line(error)}"
    print(f"{redacted(why)}; switched off for this launch, metrics.jsonl has everything", file=sys.stderr, flush=True)


def read_metrics(run_dir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a torn last line is left out. CheckpointError names one that is damaged."""
    return [json.loads(line) for line in _Lines(durable.absolute(run_dir) / "metrics.jsonl", copied=True).lines]


def read_perf(run_dir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of perf.jsonl of all launches, as `read_metrics`."""
    return [json.loads(line) for line in _Lines(durable.absolute(run_dir) / "perf.jsonl", copied=False).lines]


def read_summary(run_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """What summary.json says. CheckpointError where it is absent or damaged; the command that made the run makes it
    again."""
    place = durable.absolute(run_dir) / "summary.json"
    try:
        found = json.loads(twice.read(place))
        if not isinstance(found.get("evals"), dict):
            raise ValueError("it names no evals")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{place}: damaged ({error}); the command that made the run makes it again") from error
    return found


def compute_seconds(perf: Iterable[Mapping[str, Any]]) -> float:
    """Seconds of compute that lines of perf.jsonl tell, of all launches together: of phases and of optimizer steps."""
    return sum(line.get("perf/seconds", 0.0) + line.get("perf/step_seconds", 0.0) for line in perf)


class _Lines:
    """An append-only JSONL file and the keys of its lines. A torn last line is dropped at the first write.

    With `copied` a copy lies beside it on a local disk, `.metrics.jsonl.copy`, of lines that begin with their CRC-32:
    a line is there before it is in the file, so what it holds is what was recorded, and the file is written anew from
    it where it is damaged or gone. Without, damaged lines are told of and left out.
    """

    def __init__(self, path: epath.Path, copied: bool):
        self._path = path
        self._copy = twice.copy_of(path) if copied and durable.is_local(path) else None
        # the copy first: a line that a live run writes meanwhile is then in the file alone
        copied_lines = None if self._copy is None else _unsummed(self._copy)
        raw = path.read_bytes() if path.exists() else b""
        copy, torn = (raw, False) if copied_lines is None else copied_lines
        self._dirty = torn or raw != copy or (bool(raw) and not raw.endswith(b"\n"))
        if not raw.startswith(copy):
            # a kill may lie between a line's two places, or inside the second; more than that is damage
            if not copy.startswith(raw) or b"\n" in copy[len(raw) : -1]:
                print(f"{path}: damaged; its copy is read", file=sys.stderr, flush=True)
            raw = copy
        self.lines: list[str] = []
        self.keys: list[_Key] = []
        self._written = -math.inf
        whole, _, _ = raw.rpartition(b"\n")  # behind it there is nothing, or a torn line
        for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
            try:
                text = line.decode("ascii")
                fields = json.loads(text)
                key = (fields["iteration"], fields["phase"], fields["step"])
                hash(key)
                self.keys.append(key)
                self.lines.append(text)
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                self._refuse(number, error, copied)
        self._index = {key: index for index, key in enumerate(self.keys)}
        self.counts = collections.Counter(phase for _, phase, _ in self._index)  # places a phase has had
        self.shown = set(self.keys)  # by this launch or an earlier one

    def _refuse(self, number: int, error: Exception, copied: bool) -> None:
        if copied:
            raise CheckpointError(
                f"{self._path}: line {number} is damaged ({error}); put it back, or delete that line: no run reads it, "
                "reports will lack it"
            ) from error
        self._dirty = True
        print(f"{self._path}: line {number} is damaged ({error}) and left out", file=sys.stderr, flush=True)

    @property
    def places(self) -> int:
        """How many different places are recorded."""
        return len(self._index)

    def find(self, key: _Key) -> int | None:
        return self._index.get(key)

    def cut(self, index: int) -> None:
        """Drops the lines from `index` on."""
        for key in self.keys[index:]:
            if self._index.pop(key, None) is not None:
                self.counts[key[1]] -= 1
        del self.lines[index:], self.keys[index:]
        self.rewrite()

    def append(self, key: _Key, line: str) -> None:
        if self._dirty and durable.is_local(self._path):
            self.rewrite()
        self.counts[key[1]] += key not in self._index
        self._index[key] = len(self.lines)
        self.lines.append(line)
        self.keys.append(key)
        self._dirty = True  # until the line is whole
        if not durable.is_local(self._path):  # buckets have no appending, and take one write a second of an object
            if time.monotonic() - self._written >= bucket.SECONDS:
                self.rewrite()
            return
        with durable.storage_errors(self._path, len(line) + 1):
            if self._copy is not None:
                _append(self._copy, _summed(line))
            _append(self._path, line)
        self._dirty = False

    def flush(self) -> None:
        """Writes lines of a bucket that wait for others."""
        if self._dirty and not durable.is_local(self._path):
            self.rewrite()

    def mend(self) -> None:
        """Writes the file, and its copy, anew where they are not what was recorded."""
        if self._dirty:
            self.rewrite()

    def rewrite(self) -> None:
        """Writes both, whole."""
        content, copy = (
            "".join(f"{line}\n" for line in lines).encode("ascii") for lines in (self.lines, map(_summed, self.lines))
        )
        self._dirty = True
        with durable.storage_errors(self._path, len(content)):
            if self._copy is not None:
                durable.write_file(self._copy, copy)
            durable.write_file(self._path, content)
        self._dirty, self._written = False, time.monotonic()


def _append(path: epath.Path, line: str) -> None:
    with open(path, "ab") as file:
        file.write(f"{line}\n".encode("ascii"))


def _summed(line: str) -> str:
    return f"{zlib.crc32(line.encode('ascii')):08x} {line}"


def _unsummed(path: epath.Path) -> tuple[bytes, bool]:
    """The lines that a copy holds, and whether a torn one is behind them; none where there is no copy, or it is damaged
    itself."""
    raw = path.read_bytes() if path.exists() else b""
    lines = [line.partition(b" ") for line in raw.split(b"\n")[:-1]]
    whole = all(f"{zlib.crc32(line):08x}".encode() == sum_ for sum_, _, line in lines)
    return b"".join(line + b"\n" for _, _, line in lines) if whole else b"", not raw.endswith(b"\n") and bool(raw)


def _line(key: _Key, metrics: Mapping[str, float]) -> str:
    place: dict[str, Any] = dict(zip(("iteration", "phase", "step"), key, strict=True))
    values = {name: _number(float(metrics[name])) for name in sorted(metrics)}
    return json.dumps(place | values, allow_nan=False)


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)  # JSON has no NaN or infinity
