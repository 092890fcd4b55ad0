"""The run directory is the state: a phase whose artifact is committed is loaded, not run again.

config.json                    the resolved experiment; another one is refused with what differs
lock                           who is running here
initial/policy                 Orbax: the base policy, iterate 0
initial/<phase>/               artifacts made before the first iteration
0000/<phase>/                  artifacts of iteration 0 (see `artifact`)
0000/<phase>.parts/00007/      chunks of a phase that is still running
0000/fit/                      Orbax: training checkpoints inside the fit; removed once the policy is committed
0000/policy                    Orbax: the policy trained in iteration 0, iterate 1
metrics.jsonl perf.jsonl summary.json
"""

import dataclasses
import json
import os
import re
from collections.abc import Callable
from types import GenericAlias, TracebackType
from typing import Any, Literal, TypeVar

from etils import epath

from jaxalign import artifact, checkpoint, durable, store
from jaxalign.errors import CheckpointError, ConfigError
from jaxalign.lock import RunLock
from jaxalign.resolved import difference
from jaxalign.types import Params

T = TypeVar("T")
Iteration = int | Literal["initial"]

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_RESERVED = ("policy", "fit")


def open_run(path: str | os.PathLike[str], config: dict[str, Any]) -> "RunDir":
    """Creates or reopens the run of `config` (JSON) at `path`, and locks it until the run is closed.

    Raises ConfigError when the directory belongs to another config or to something else, CheckpointError when
    another process is running here or the disk refuses.
    """
    root = durable.absolute(path)
    resolved = json.loads(artifact.to_json(config))
    if root.exists() and not root.is_dir():
        raise ConfigError(f"{root}: is a file, not a run directory")
    _refuse_foreign(root)
    with durable.storage_errors(root, 0):
        durable.make_directory(root)
        lock = RunLock(root / "lock")
    try:
        if (root / "config.json").exists():
            _refuse_other(root, _read_config(root), resolved)
        else:
            with durable.storage_errors(root, len(artifact.to_json(resolved))):
                durable.write_file(root / "config.json", artifact.to_json(resolved))
                durable.sync_directory(root)
    except BaseException:
        lock.release()
        raise
    return RunDir(root, resolved, lock)


def read_run(path: str | os.PathLike[str]) -> "RunDir":
    """A run as it lies there, to read from: without a lock, whatever else happens to it."""
    root = durable.absolute(path)
    if not (root / "config.json").exists():
        raise ConfigError(f"{root}: is no run directory (it has no config.json)")
    return RunDir(root, _read_config(root), None)


class RunDir:
    """An open run. `lock` is None when it is only read from."""

    def __init__(self, path: epath.Path, config: dict[str, Any], lock: RunLock | None):
        self.path = path
        self.config = config
        self._lock = lock

    def __enter__(self) -> "RunDir":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the lock; a second call does nothing."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    # Artifacts

    def phase(self, iteration: Iteration, name: str, make: Callable[[], T], kind: type[T] | GenericAlias) -> T:
        """The committed artifact of a phase; where there is none, `make()` is committed first.

        `kind` is a frozen dataclass (arrays, text, numbers, tuples, nested dataclasses) or `dict[str, float]`.
        Always returns what loading gives, so that a resumed run computes with the same values. Raises
        CheckpointError when an artifact is damaged or cannot be written.
        """
        directory = self._place(iteration, name)
        if not artifact.committed(directory):
            self._must_write()
            artifact.commit(directory, _label(iteration, name), make())
        if self._lock is not None:
            with durable.storage_errors(directory, 0):
                artifact.clear(self._parts(iteration, name))
        return self.load(iteration, name, kind)

    def has(self, iteration: Iteration, name: str) -> bool:
        """Whether the phase is committed."""
        return artifact.committed(self._place(iteration, name))

    def load(self, iteration: Iteration, name: str, kind: type[T] | GenericAlias) -> T:
        """The committed artifact of a phase; CheckpointError when it is absent or damaged."""
        return artifact.read(self._place(iteration, name), _label(iteration, name), kind)

    def parts(self, iteration: Iteration, name: str) -> "Parts":
        """Chunks of a long phase, each committed on its own; gone once the phase itself is committed."""
        return Parts(self._parts(iteration, name), f"{_label(iteration, name)}.parts", self._must_write)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Writes summary.json, whole."""
        self._must_write()
        content = artifact.to_json(summary)
        with durable.storage_errors(self.path, len(content)):
            durable.write_file(self.path / "summary.json", content)

    # Policies

    def policy(self, iterate: int) -> "PolicySlot":
        """Where iterate k lies: the base policy is 0, the policy trained in iteration i is i + 1."""
        home = "initial" if iterate == 0 else _iteration_name(iterate - 1)
        return PolicySlot(self.path / home / "policy", iterate)

    def policies(self) -> list[int]:
        """The iterates that are committed, in order."""
        numbers = [int(home.name) + 1 for home in self.path.iterdir() if re.fullmatch(r"\d{4,}", home.name)]
        return sorted(iterate for iterate in [0, *numbers] if self.policy(iterate).exists())

    def prune(self, keep: int | None, protect: set[int]) -> None:
        """Deletes all iterates but the base, the newest `keep` (None: all) and those in `protect` (the anchor)."""
        if keep is None:
            return
        self._must_write()
        trained = [iterate for iterate in self.policies() if iterate > 0]
        newest = trained[-max(keep, 1) :]
        for iterate in trained:
            if iterate not in newest and iterate not in protect:
                store.delete(self.policy(iterate).path)

    def fit_path(self, iteration: int) -> epath.Path:
        """Where the training checkpoints of an iteration's fit go."""
        return self.path / _iteration_name(iteration) / "fit"

    def clear_fit(self, iteration: int) -> None:
        """Deletes an iteration's training checkpoints. Raises CheckpointError unless its policy is committed."""
        self._must_write()
        if not self.policy(iteration + 1).exists():
            raise CheckpointError(f"{self.fit_path(iteration)}: still needed, the policy is not committed")
        store.delete(self.fit_path(iteration))

    def _place(self, iteration: Iteration, name: str) -> epath.Path:
        if not _NAME.fullmatch(name) or name in _RESERVED:
            raise ValueError(f"{name!r} is no name for a phase")
        return self.path / _label(iteration, name)

    def _parts(self, iteration: Iteration, name: str) -> epath.Path:
        return self._place(iteration, name).with_name(f"{name}.parts")

    def _must_write(self) -> None:
        if self._lock is None:
            raise CheckpointError(f"{self.path}: opened for reading only")


@dataclasses.dataclass(frozen=True)
class Parts:
    """Chunks of one phase. `check` raises where the run must not be written to."""

    directory: epath.Path
    label: str
    check: Callable[[], None]

    def get(self, k: int, make: Callable[[], T], kind: type[T] | GenericAlias) -> T:
        """Chunk k: loaded when committed, else made, committed and loaded."""
        place, label = self.directory / f"{k:05d}", f"{self.label}/{k:05d}"
        if not artifact.committed(place):
            self.check()
            artifact.commit(place, label, make())
        return artifact.read(place, label, kind)


@dataclasses.dataclass(frozen=True)
class PolicySlot:
    """One iterate's place in the run directory."""

    path: epath.Path
    iterate: int

    def exists(self) -> bool:
        """Whether the policy is committed."""
        return store.exists(self.path)

    def save(self, params: Params, meta: dict[str, Any]) -> None:
        """Commits the policy; see `checkpoint.save_policy`."""
        checkpoint.save_policy(self.path, params, {**meta, "iterate": self.iterate})

    def load(self, abstract_params: Params) -> Params:
        """The policy on the devices of `abstract_params`; see `checkpoint.load_policy`."""
        params, meta = checkpoint.load_policy(self.path, abstract_params)
        if meta["iterate"] != self.iterate:
            raise CheckpointError(f"{self.path}: holds iterate {meta['iterate']}, not {self.iterate}")
        return params


def _iteration_name(iteration: int) -> str:
    return f"{iteration:04d}"


def _label(iteration: Iteration, name: str) -> str:
    return f"{iteration if isinstance(iteration, str) else _iteration_name(iteration)}/{name}"


# --------------------------------------------------------------------------------------------------------------
# Whose directory is it?


def _refuse_foreign(root: epath.Path) -> None:
    if not root.exists() or (root / "config.json").exists():
        return
    names = sorted(entry.name for entry in root.iterdir() if not entry.name.startswith(".") and entry.name != "lock")
    if names:
        raise ConfigError(f"{root}: not empty and no run directory (it holds {', '.join(names[:5])}); choose another")


def _read_config(root: epath.Path) -> dict[str, Any]:
    try:
        config = json.loads((root / "config.json").read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{root / 'config.json'}: damaged ({error})") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{root / 'config.json'}: damaged (no JSON object)")
    return config


def _refuse_other(root: epath.Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    lines = difference(before, now)
    if lines:
        more = [f"and {len(lines) - 20} more"] if len(lines) > 20 else []
        shown = "".join(f"\n  {line}" for line in lines[:20] + more)
        raise ConfigError(f"{root}: this directory holds a run of another config; choose another directory{shown}")
