"""What a run leaves to read: metrics.jsonl, which a resumed run completes to the same bytes, and perf.jsonl.

A line of metrics.jsonl is `{"iteration": 1, "phase": "fit", "step": 12, "loss": 0.5, …}`: only values that the
config determines. Times, rates and memory go to perf.jsonl, which each run simply continues.
"""

import collections
import json
import math
import os
from collections.abc import Mapping
from typing import Any

from etils import epath

from jaxalign.errors import CheckpointError, ConfigError
from jaxalign.hosts.group import Hosts
from jaxalign.storage import durable

_Key = tuple[int | str, str, int]


class Recorder:
    """Writes a run's metrics. One at a time for each run directory.

    A line is known by (iteration, phase, step), each logged once. A run that resumes may log again what is there:
    an equal line stays as it is; a line that differs takes with it everything after it.
    """

    def __init__(self, run_dir: str | os.PathLike[str], tensorboard: bool = False):
        root = durable.absolute(run_dir)
        self._metrics = _Lines(root / "metrics.jsonl")
        self._perf = _Lines(root / "perf.jsonl")
        self._logged: set[_Key] = set()
        self._board = _open_board(root / "tensorboard") if tensorboard else None

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
        self._draw(phase, metrics, self._metrics)

    def perf(self, iteration: int | str, phase: str, step: int, metrics: Mapping[str, float]) -> None:
        """Appends one line of times (s), rates and memory; these differ from run to run."""
        key = (iteration, phase, step)
        self._perf.append(key, _line(key, metrics))
        self._draw(phase, metrics, self._perf)

    def close(self) -> None:
        """Closes the TensorBoard writer; the JSON files are complete at every moment."""
        if self._board is not None:
            self._board.close()

    def _draw(self, phase: str, metrics: Mapping[str, float], lines: "_Lines") -> None:
        """TensorBoard wants one axis over all iterations: the number of lines this phase has had."""
        if self._board is not None:
            at = lines.counts[phase]
            for name, value in metrics.items():
                self._board.add_scalar(f"{phase}/{name}", float(value), at)


class Silent:
    """A recorder that writes nothing: that of all processes of a run but the first."""

    def log(self, iteration: int | str, phase: str, step: int, metrics: Mapping[str, float]) -> None:
        """Process 0 logs the same."""

    def perf(self, iteration: int | str, phase: str, step: int, metrics: Mapping[str, float]) -> None:
        """Process 0 logs its own."""

    def close(self) -> None:
        """Nothing is open."""


def open_recorder(run_dir: str | os.PathLike[str], tensorboard: bool, hosts: Hosts) -> Recorder | Silent:
    """What this process of a run records with: process 0 for all of them."""
    return Recorder(run_dir, tensorboard) if hosts.leader else Silent()


def read_metrics(run_dir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a torn last line is left out. CheckpointError names one that is damaged."""
    return [json.loads(line) for line in _Lines(durable.absolute(run_dir) / "metrics.jsonl").lines]


def read_perf(run_dir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of perf.jsonl of all launches, as `read_metrics`."""
    return [json.loads(line) for line in _Lines(durable.absolute(run_dir) / "perf.jsonl").lines]


class _Lines:
    """An append-only JSONL file and the keys of its lines. A torn last line is dropped at the first write."""

    def __init__(self, path: epath.Path):
        self._path = path
        raw = path.read_bytes() if path.exists() else b""
        whole, _, torn = raw.rpartition(b"\n")
        self.lines: list[str] = []
        self.keys: list[_Key] = []
        self._dirty = bool(torn)
        for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
            try:
                text = line.decode("ascii")
                fields = json.loads(text)
                self.keys.append((fields["iteration"], fields["phase"], fields["step"]))
                self.lines.append(text)
            except (ValueError, KeyError, TypeError) as error:
                raise CheckpointError(f"{path}: line {number} is damaged ({error})") from error
        self._index = {key: index for index, key in enumerate(self.keys)}
        self.counts = collections.Counter(phase for _, phase, _ in self.keys)

    def find(self, key: _Key) -> int | None:
        return self._index.get(key)

    def cut(self, index: int) -> None:
        """Drops the lines from `index` on."""
        for key in self.keys[index:]:
            self._index.pop(key, None)
            self.counts[key[1]] -= 1
        del self.lines[index:], self.keys[index:]
        self._rewrite()

    def append(self, key: _Key, line: str) -> None:
        if self._dirty:
            self._rewrite()
        self._index[key] = len(self.lines)
        self.lines.append(line)
        self.keys.append(key)
        self.counts[key[1]] += 1
        if not durable.is_local(self._path):  # buckets have no appending
            self._rewrite()
            return
        self._dirty = True  # until the line is whole
        with durable.storage_errors(self._path, len(line) + 1), open(self._path, "ab") as file:
            file.write(f"{line}\n".encode("ascii"))
        self._dirty = False

    def _rewrite(self) -> None:
        content = "".join(f"{line}\n" for line in self.lines).encode("ascii")
        with durable.storage_errors(self._path, len(content)):
            durable.write_file(self._path, content)
        self._dirty = False


def _line(key: _Key, metrics: Mapping[str, float]) -> str:
    place: dict[str, Any] = dict(zip(("iteration", "phase", "step"), key, strict=True))
    values = {name: _number(float(metrics[name])) for name in sorted(metrics)}
    return json.dumps(place | values, allow_nan=False)


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)  # JSON has no NaN or infinity


def _open_board(path: epath.Path) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ConfigError("tensorboard: needs tensorboardX; pip install 'jaxalign[tensorboard]'") from error
    return SummaryWriter(str(path))
