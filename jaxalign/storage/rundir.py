"""The run directory is the state: a phase whose artifact is committed is loaded, not run again.

config.json                    the resolved experiment; another one is refused with what differs, placements aside
inputs.json                    what its first launch read from elsewhere; another content is refused (see `pinned`)
lock                           who is running here
initial/policy                 Orbax: the base policy, iterate 0
initial/<phase>/               artifacts made before the first iteration
0000/<phase>/                  artifacts of iteration 0 (see `artifact`)
0000/<phase>.parts/00007/      chunks of a phase that is still running
      00007-00001-of-00004/    those of one process, where several run together
0000/fit/                      Orbax: training checkpoints inside the fit; removed once the policy is committed
      name                     what hosts call that fit which keep checkpoints of their own (see `tiers`)
0000/best/00000020/            Orbax: the parameters after a step of the fit that was the best so far; removed likewise
0000/policy                    Orbax: the policy trained in iteration 0, iterate 1
0000/moments                   Orbax: what its optimizer ended with, where the next fit goes on from that; then removed
metrics.jsonl perf.jsonl summary.json
.<name>.copy                   of all JSON files here but perf.jsonl and the artifacts' own (see `twice` and `record`)
profile/ tensorboard/ wandb/   xprof traces, and what trackers write, where they are asked for
"""

import dataclasses
import json
import os
import re
from collections.abc import Callable
from types import GenericAlias, TracebackType
from typing import Any, Literal, TypeVar

from etils import epath

from jaxalign.errors import CheckpointError, ConfigError, NotCommitted
from jaxalign.hosts.group import ALONE, Hosts
from jaxalign.storage import artifact, bucket, canonical, durable, pytree, twice
from jaxalign.storage.claim import begun, claimed, computed, read_config, refuse_other
from jaxalign.storage.lease import Lease
from jaxalign.storage.lock import LeadersLock, RunLock
from jaxalign.storage.record import read_summary
from jaxalign.storage.slot import PolicySlot, shows
from jaxalign.types import Params

T = TypeVar("T")
Iteration = int | Literal["initial"]

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_COMPLETE = "complete.json"
_RESERVED = ("policy", "fit", "best", "moments")
MOMENTS_REMEDY = "delete all policies that the run has trained, and the same command makes them again"
"""Of moments that are damaged or gone: those before them are gone since a later fit was over."""


def open_run(path: str | os.PathLike[str], config: dict[str, Any], hosts: Hosts = ALONE) -> "RunDir":
    """Creates or reopens the run of `config` (JSON) at `path`, and locks it until the run is closed.

    Of several processes the first one does, and all others see that they mean the same run. Raises ConfigError when
    the directory belongs to another config or to something else, or is not shared by all hosts, CheckpointError when
    another run is open here or the disk refuses.
    """
    root = durable.absolute(path)
    resolved = json.loads(canonical.to_json(config))
    if hosts.leader:
        lock = claimed(path, root, resolved)
        hosts.barrier("open")
        return RunDir(root, resolved, lock, hosts)
    hosts.barrier("open")
    if not durable.is_local(root):
        bucket.check(root)
    if not shows(lambda: (root / "config.json").exists(), hosts):
        raise ConfigError(f"{root}: is not there on this host; --workdir must be on storage that all hosts share")
    refuse_other(root, read_config(root), resolved)
    return RunDir(root, resolved, LeadersLock(), hosts)


def read_run(path: str | os.PathLike[str]) -> "RunDir":
    """A run as it lies there, to read from: without a lock, whatever else happens to it."""
    root = durable.absolute(path)
    if not durable.is_local(root):
        bucket.check(root)
    if not twice.there(root / "config.json"):
        raise ConfigError(f"{root}: is no run directory (it has no config.json)")
    return RunDir(root, read_config(root), None)


class RunDir:
    """An open run. `lock` is None when it is only read from.

    Where several processes have it open, process 0 writes and deletes, what is there is what process 0 sees, and all
    of them call the same methods in the same order.
    """

    def __init__(
        self, path: epath.Path, config: dict[str, Any], lock: RunLock | Lease | LeadersLock | None, hosts: Hosts = ALONE
    ):
        self.path = path
        self.config = config
        self.hosts = hosts
        self._lock = lock
        self._made: dict[str, set[str]] = {}  # artifacts by home that this launch has seen whole

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

    @property
    def writable(self) -> bool:
        """Whether this process writes here: process 0 of those that hold the lock."""
        return self._lock is not None and self.hosts.leader

    def begun(self) -> bool:
        """Whether anything was computed here: an artifact or a policy, whole or in parts."""
        return self.hosts.told((begun(durable.names(self.path)) or computed(self.path)) if self.hosts.leader else False)

    # Artifacts

    def phase(self, iteration: Iteration, name: str, make: Callable[[], T], kind: type[T] | GenericAlias) -> T:
        """The committed artifact of a phase; where there is none, `make()` is committed first.

        All processes call `make`, and process 0 commits what it made when all are done.

        `kind` is a frozen dataclass (arrays, text, numbers, tuples, nested dataclasses) or `dict[str, float]`.
        Always returns what loading gives, so that a resumed run computes with the same values. Raises
        CheckpointError when an artifact is damaged or cannot be written.
        """
        directory = self._place(iteration, name)
        if not self.has(iteration, name):
            self.must_write()
            value = make()
            self.hosts.barrier("made")  # nobody reads parts any more
            self.must_write()  # making it may have taken long
            if self.hosts.leader:
                artifact.commit(directory, _label(iteration, name), value)
            self.hosts.barrier("committed")
        if self.writable:
            with durable.storage_errors(directory, 0):
                artifact.clear(self._parts(iteration, name))
        self._made.setdefault(_home_name(iteration), set()).add(name)
        return self.load(iteration, name, kind)

    def has(self, iteration: Iteration, name: str) -> bool:
        """Whether the phase is committed."""
        return self.hosts.told(artifact.committed(self._place(iteration, name)))

    def drop(self, iteration: Iteration, name: str) -> None:
        """Deletes the artifact of a phase, if it is there, so that it is made again."""
        self.must_write()
        if self.hosts.leader:
            artifact.clear(self._place(iteration, name))
        self.hosts.barrier("dropped")

    def finished(self) -> int:
        """Iterations that are complete, their evaluation included, up to the first that has lost something since."""
        if not self.hosts.told(self._whole("initial")):
            return 0
        count = 0
        while self.has(count, "evals") and self.hosts.told(self._whole(count)):
            count += 1
        return count

    def complete(self, iteration: Iteration) -> None:
        """Writes down what is committed of an iteration that is complete, so that it is known should it be lost."""
        home = self.path / _home_name(iteration)
        if self.hosts.leader:
            known = {*durable.names(home), *self._made.get(_home_name(iteration), ())}
            there = sorted(name for name in known if artifact.committed(home / name))
            content = canonical.to_json(there)
            if not twice.there(home / _COMPLETE):  # what comes later, at the run's end, can be made again from the rest
                with durable.storage_errors(home, len(content)):
                    twice.write(home / _COMPLETE, content)

    def _whole(self, iteration: Iteration) -> bool:
        """Whether all is there that was when the iteration was complete; of one that no launch completed, too."""
        return not self.missing(iteration)

    def missing(self, iteration: Iteration) -> list[str]:
        """What was there when the iteration was complete and is not any more, as this process sees it."""
        home = self.path / _home_name(iteration)
        try:
            names = json.loads(twice.read(home / _COMPLETE, mend=self.writable))
        except (OSError, ValueError):
            return []
        kept = iteration == "initial" or self.config.get("keep_policies", 0) is None
        policy = ["policy"] if kept and not pytree.exists(home / "policy") else []
        there = [str(name) for name in names] if isinstance(names, list) else [_COMPLETE]
        return policy + [name for name in there if not artifact.committed(home / name)]

    def load(self, iteration: Iteration, name: str, kind: type[T] | GenericAlias) -> T:
        """The committed artifact of a phase; CheckpointError when it is absent or damaged."""
        directory = self._place(iteration, name)
        if not shows(lambda: artifact.committed(directory), self.hosts):
            raise NotCommitted(f"{directory}: nothing is committed here", 0 if iteration == "initial" else iteration)
        return artifact.read(directory, _label(iteration, name), kind)

    def parts(self, iteration: Iteration, name: str) -> "Parts":
        """Chunks of a long phase, each committed on its own; gone once the phase itself is committed."""
        return Parts(self._parts(iteration, name), f"{_label(iteration, name)}.parts", self.hosts, self.must_write)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Writes summary.json, whole; for process 0 to call."""
        self.must_write()
        content = canonical.to_json(summary)
        with durable.storage_errors(self.path, len(content)):
            twice.write(self.path / "summary.json", content)

    def summary(self) -> dict[str, Any]:
        """As `read_summary`."""
        shows((self.path / "summary.json").exists, self.hosts)
        return read_summary(self.path)

    # Policies

    def policy(self, iterate: int) -> PolicySlot:
        """Where iterate k lies: the base policy is 0, the policy trained in iteration i is i + 1."""
        home = "initial" if iterate == 0 else _iteration_name(iterate - 1)
        return PolicySlot(self.path / home / "policy", iterate, self.hosts)

    def policies(self) -> list[int]:
        """The iterates that are committed, in order; what this process sees."""
        numbers = {int(name) + 1 for name in durable.names(self.path) if re.fullmatch(r"\d{4,}", name)}
        found = {iterate for iterate in {0, *numbers} if pytree.exists(self.policy(iterate).path)}
        # the listing of a bucket may come behind what was written: the next ones are asked for by name
        while not durable.is_local(self.path) and pytree.exists(self.policy(max(found, default=-1) + 1).path):
            found.add(max(found, default=-1) + 1)
        return sorted(found)

    def prune(self, keep: int | None, protect: set[int]) -> None:
        """Deletes all iterates but the base, the newest `keep` (None: all) and those in `protect` (the anchor)."""
        self.must_write()
        if keep is None or not self.hosts.leader:
            return
        trained = [iterate for iterate in self.policies() if iterate > 0]
        newest = trained[-max(keep, 1) :]
        for iterate in trained:
            if iterate not in newest and iterate not in protect:
                pytree.delete(self.policy(iterate).path)

    def fit_path(self, iteration: int) -> epath.Path:
        """Where the training checkpoints of an iteration's fit go."""
        return self.path / _iteration_name(iteration) / "fit"

    def best(self, iteration: int, step: int) -> PolicySlot:
        """Where the parameters after `step` steps of an iteration's fit lie, if they were the best so far."""
        home = self.path / _iteration_name(iteration)
        remedy = f"delete {home / 'fit'} and {home / 'best'}, and the same command begins this fit again"
        return PolicySlot(home / "best" / f"{step:08d}", iteration + 1, self.hosts, remedy)

    def keep_best(self, iteration: int, step: int, kept: Params) -> None:
        """Commits them, in place of what a launch that came to the same step before has left."""
        self._replace(self.best(iteration, step), kept, {"step": step})

    def moments(self, iteration: int) -> PolicySlot:
        """Where the optimizer state lies that an iteration's fit hands on."""
        return PolicySlot(self.path / _iteration_name(iteration) / "moments", iteration + 1, self.hosts, MOMENTS_REMEDY)

    def keep_moments(self, iteration: int, state: Params) -> None:
        """Commits it, in place of what a launch has left that did not come to commit the policy."""
        self._replace(self.moments(iteration), state, {})

    def _replace(self, slot: PolicySlot, tree: Params, meta: dict[str, Any]) -> None:
        self.must_write()
        if slot.exists() and self.hosts.leader:
            pytree.delete(slot.path)
        self.hosts.barrier("replace")
        slot.save(tree, meta)

    def prune_best(self, iteration: int, steps: set[int]) -> None:
        """Deletes those of all steps but `steps`."""
        root = self.best(iteration, 0).path.parent
        if self.hosts.leader:
            for entry in map(root.joinpath, durable.names(root)):
                if not entry.name.isdecimal() or int(entry.name) not in steps:
                    pytree.delete(entry)

    def clear_fit(self, iteration: int) -> None:
        """Deletes an iteration's training checkpoints, and the moments that its fit began with. Raises CheckpointError
        unless its policy is committed."""
        self.must_write()
        if not self.policy(iteration + 1).exists():
            raise CheckpointError(f"{self.fit_path(iteration)}: still needed, the policy is not committed")
        if self.hosts.leader:
            pytree.delete(self.fit_path(iteration))
            pytree.delete(self.best(iteration, 0).path.parent)
            if iteration:
                pytree.delete(self.moments(iteration - 1).path)

    def _place(self, iteration: Iteration, name: str) -> epath.Path:
        if not _NAME.fullmatch(name) or name in _RESERVED:
            raise ValueError(f"{name!r} is no name for a phase")
        return self.path / _label(iteration, name)

    def _parts(self, iteration: Iteration, name: str) -> epath.Path:
        return self._place(iteration, name).with_name(f"{name}.parts")

    def must_write(self) -> None:
        """Raises CheckpointError where this process must not write to the run: it only reads, or another has it now."""
        if self._lock is None:
            raise CheckpointError(f"{self.path}: opened for reading only")
        if why := self._lock.lost:
            raise CheckpointError(f"{why}; this launch writes nothing more, and the same command continues")


@dataclasses.dataclass(frozen=True)
class Parts:
    """Chunks of one phase. `check` raises where the run must not be written to."""

    directory: epath.Path
    label: str
    hosts: Hosts
    check: Callable[[], None]

    def get(self, k: int, make: Callable[[], T], kind: type[T] | GenericAlias) -> tuple[T, ...]:
        """Chunk k, what each process has of it in the order of processes: loaded when committed, else made first.

        `make` gives this process's own, and all make theirs when one is missing: computing it takes all of them.
        """
        if self._committed(k):
            return self._all(k, kind)
        self.check()
        return self.put(k, make(), kind)

    def put(self, k: int, value: T, kind: type[T] | GenericAlias) -> tuple[T, ...]:
        """Commits this process's own of chunk k, as all do; returns what each has of it."""
        self.check()
        own = self._name(k, self.hosts.index)
        artifact.commit(self.directory / own, f"{self.label}/{own}", value)
        self.hosts.barrier("part")
        return self._all(k, kind)

    def kept(self, kind: type[T] | GenericAlias) -> list[tuple[T, ...]]:
        """Chunks 0, 1, … as far as every process has committed its own. What another number of processes left is not
        read."""
        found: list[tuple[T, ...]] = []
        while self._committed(len(found)):
            found.append(self._all(len(found), kind))
        return found

    def _committed(self, k: int) -> bool:
        return self.hosts.all(artifact.committed(self.directory / self._name(k, self.hosts.index)))

    def _all(self, k: int, kind: type[T] | GenericAlias) -> tuple[T, ...]:
        return tuple(self._read(self._name(k, index), kind) for index in range(self.hosts.count))

    def _read(self, name: str, kind: type[T] | GenericAlias) -> T:
        shows(lambda: artifact.committed(self.directory / name), self.hosts)
        return artifact.read(self.directory / name, f"{self.label}/{name}", kind)

    def _name(self, k: int, index: int) -> str:
        return f"{k:05d}" if self.hosts.count == 1 else f"{k:05d}-{index:05d}-of-{self.hosts.count:05d}"


def home(iterate: int) -> Iteration:
    """Where the artifacts of a policy lie: with the iteration that made it."""
    return iterate - 1 if iterate else "initial"


def _iteration_name(iteration: int) -> str:
    return f"{iteration:04d}"


def _home_name(iteration: Iteration) -> str:
    return iteration if isinstance(iteration, str) else _iteration_name(iteration)


def _label(iteration: Iteration, name: str) -> str:
    return f"{_home_name(iteration)}/{name}"
