"""Checkpoints that a host keeps for itself: the shards of its own devices, in its memory or on its own disk.

Each is one artifact (see `artifact`), verified when it is read, and written behind the training's back; Orbax saves in
step with all processes, and what a host keeps must not depend on how the others fare. While one is written the host
holds its shards twice more.
"""

import json
import os
import shutil
import socket
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from etils import epath

from jaxalign.errors import CheckpointError, ConfigError
from jaxalign.hosts.group import Hosts
from jaxalign.storage import artifact, canonical, durable
from jaxalign.storage.lock import boot_id

_KEPT = 2
"""Of a fit: a host may die when others have written a step that it has not, and then the one before is the newest that
all have. No host is further behind: a save waits for the one before."""


@dataclass(frozen=True)
class OwnShards:
    """Shards by name (`shards.own`), and two documents."""

    arrays: dict[str, np.ndarray]
    data: str
    meta: str


class LocalTier:
    """Where this host keeps its shards, of one run: a directory of its own under `directory`, which is no other
    process's. In `directory`, `{process}` stands for the number of the process.

    Raises ConfigError where it cannot be written or two processes have the same.
    """

    def __init__(self, directory: str, every: int, run: epath.Path, hosts: Hosts):
        durable.refuse_bucket(directory)
        self.hosts, self.every = hosts, every
        home = durable.absolute(directory.replace("{process}", str(hosts.index)))
        self._root = home / name_of(run)
        told = hosts.each([[socket.gethostname(), boot_id(), os.fspath(self._root)], _refused(self._root)])
        for index, (place, refused) in enumerate(told):
            if refused:
                raise ConfigError(f"placement.local_checkpoints: on process {index}: {refused}")
            if place in [other for other, _ in told[:index]]:
                raise ConfigError(
                    f"placement.local_checkpoints: two processes of {place[0]} have the same directory, {home}; "
                    "{process} in it stands for the number of each"
                )

    def of(self, fit: str) -> "LocalCheckpoints":
        """Those of the fit of that name. Others, of fits that are over, are deleted."""
        for name in durable.names(self._root):
            if name != fit:
                shutil.rmtree(self._root / name, ignore_errors=True)
        return LocalCheckpoints(self._root / fit)

    def clear(self) -> None:
        """Deletes all: the policy is committed."""
        shutil.rmtree(self._root, ignore_errors=True)


class LocalCheckpoints:
    """This host's checkpoints of one fit, `root`/00000012; the newest two stay."""

    def __init__(self, root: epath.Path):
        self._root = root
        self._thread = ThreadPoolExecutor(1, "local checkpoint")
        self._pending: Future[None] | None = None

    def steps(self) -> list[int]:
        """The committed steps, oldest first."""
        names = durable.names(self._root)
        return sorted(int(name) for name in names if name.isdecimal() and artifact.committed(self._root / name))

    def save(self, step: int, shards: Mapping[str, jax.Array], data: dict[str, Any], meta: dict[str, Any]) -> None:
        """Starts saving; returns once the arrays may be overwritten. CheckpointError when the one before has failed."""
        self.settle()
        for shard in shards.values():
            shard.copy_to_host_async()
        # a copy: on the CPU what NumPy sees of an array is the array, which the next step gives away
        arrays = {name: np.array(shard) for name, shard in shards.items()}
        self._pending = self._thread.submit(self._write, step, OwnShards(arrays, json.dumps(data), json.dumps(meta)))

    def _write(self, step: int, shards: OwnShards) -> None:
        artifact.commit(self._place(step), _label(step), shards)
        for old in self.steps()[:-_KEPT]:
            self.drop(old)

    def settle(self) -> None:
        """Waits for the save under way; CheckpointError when it failed."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def load(self, step: int, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> tuple[OwnShards, dict[str, jax.Array]]:
        """The checkpoint of a step, and its arrays where `wanted` has them. CheckpointError where it is damaged, or of
        other shards."""
        found = artifact.read(self._place(step), _label(step), OwnShards)
        here = {name: (array.shape, array.dtype) for name, array in found.arrays.items()}
        if here != {name: (each.shape, each.dtype) for name, each in wanted.items()}:
            raise CheckpointError(f"{self._place(step)}: holds the shards of another placement")
        return found, {name: jax.device_put(found.arrays[name], each.sharding) for name, each in wanted.items()}

    def drop(self, step: int) -> None:
        """Deletes the checkpoint of a step."""
        with durable.storage_errors(self._root, 0):
            artifact.clear(self._place(step))

    def close(self) -> None:
        """As `settle`, and nothing is saved any more."""
        try:
            self.settle()
        finally:
            self._thread.shutdown()

    def _place(self, step: int) -> epath.Path:
        return self._root / f"{step:08d}"


def name_of(run: str | os.PathLike[str]) -> str:
    """That of a host's directory for the run at a path."""
    return f"jaxalign-{canonical.sha256(os.fspath(run).encode())[:16]}"


def _label(step: int) -> str:
    return f"local/{step:08d}"


def _refused(root: epath.Path) -> str:
    """Why nothing can be written there; empty if it can."""
    try:
        durable.make_directory(root)
        durable.write_file(root / "probe", b"")
        (root / "probe").unlink()
    except OSError as error:
        return f"{root}: cannot be written: {durable.refusal(error, root, 0)}"
    return ""
