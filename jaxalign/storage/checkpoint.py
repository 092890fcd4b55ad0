"""Policies and training states of a run: saved so that a failure, a kill or a damaged disk costs at most a step.

Each checkpoint is one atomic, verified directory (see `pytree`). A failed save is tried once more; nothing that was
committed before is touched by it. Where several processes run together all save and restore their own shards, process
0 deletes and renames, and a save that fails on one of them is the end of the run: it cannot be tried again alone.
"""

import contextlib
import os
import re
import secrets
import sys
from types import TracebackType
from typing import Any, NamedTuple

import jax
from etils import epath

from jaxalign.errors import CheckpointError
from jaxalign.hosts.group import ALONE, Hosts
from jaxalign.storage import durable, pytree
from jaxalign.storage.streamed import StreamedArrays
from jaxalign.types import Params

_SECONDS = 1200.0  # a save that takes longer than this has failed
_NAME = "name"


class Restored(NamedTuple):
    """A training checkpoint: what was given to `FitCheckpoints.save`."""

    step: int
    state: Any
    data: dict[str, Any]
    meta: dict[str, Any]


# --------------------------------------------------------------------------------------------------------------
# Policies


def save_policy(path: str | os.PathLike[str], params: Params, meta: dict[str, Any], hosts: Hosts = ALONE) -> None:
    """Commits the parameters and `meta` (JSON) at `path`; one retry, then CheckpointError with the reason."""
    place = durable.absolute(path)
    if hosts.told(pytree.exists(place)):
        raise CheckpointError(f"{place}: a policy is already committed here")
    pytree.check_documents({"meta": meta})
    attempts = 2 if hosts.count == 1 else 1
    for attempt in range(1, attempts + 1):
        # what a killed run left half-written: it holds room, and Orbax refuses a place that is taken
        if hosts.leader:
            pytree.delete(place)
            _delete_drafts(place)
        try:
            pytree.start(place, params, {"meta": meta}, step=None).result(timeout=_SECONDS)
            if hosts.leader:
                pytree.sync(place)
            return
        except Exception as error:  # TensorStore and Orbax raise a dozen kinds
            if attempt == attempts:
                if hosts.leader:
                    _delete_drafts(place)
                raise _failed(place, params, error) from error


def load_policy(path: str | os.PathLike[str], abstract_params: Params) -> tuple[Params, dict[str, Any]]:
    """(params, meta). `abstract_params` gives shape, dtype and sharding of every array (ShapeDtypeStruct).

    Raises CheckpointError naming the array that is absent, of another shape or dtype, or damaged.
    """
    place = _committed(path)
    params, documents = pytree.load(place, abstract_params, ("meta",), step=None)
    return params, documents["meta"]


def stream_policy(path: str | os.PathLike[str], abstract_params: Params) -> tuple[StreamedArrays, dict[str, Any]]:
    """(arrays, meta) of a policy that stays on the disk, to be read part by part. Shapes and dtypes are those of
    `abstract_params`, or CheckpointError names the array that differs; values are verified as they are read."""
    place = _committed(path)
    arrays, documents = pytree.contents(place, ("meta",), step=None)
    pytree.compare(place, arrays, abstract_params)
    return StreamedArrays(place, arrays), documents["meta"]


def _committed(path: str | os.PathLike[str]) -> epath.Path:
    place = durable.absolute(path)
    if not pytree.exists(place):
        raise CheckpointError(f"{place}: no policy is committed here")
    return place


# --------------------------------------------------------------------------------------------------------------
# Training states


class FitCheckpoints:
    """Training checkpoints `root/00000012`, written behind the training's back, the newest `keep` kept.

    Only one run may use `root`: half-written checkpoints found at construction are deleted.
    """

    def __init__(self, root: str | os.PathLike[str], every: int, keep: int, hosts: Hosts = ALONE):
        if every < 1 or keep < 1:
            raise ValueError("every and keep are at least 1")
        self._root = durable.absolute(root)
        self._every = every
        self._keep = keep
        self._hosts = hosts
        self._pending: tuple[int, int, Any] | None = None  # step, bytes, response
        self._sweep()

    def __enter__(self) -> "FitCheckpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:  # what stopped the training is the news; a failed save was said on stderr
            self._settle()

    def due(self, step: int) -> bool:
        """Whether a checkpoint is wanted after `step` steps."""
        return step % self._every == 0

    def steps(self) -> list[int]:
        """The committed steps, oldest first."""
        return self._hosts.told(self._seen())

    def _seen(self) -> list[int]:
        """What this process sees of them."""
        return sorted(
            int(name) for name in durable.names(self._root) if name.isdecimal() and pytree.exists(self._root / name)
        )

    def name(self) -> str:
        """That of the fit whose checkpoints these are, and of no other: drawn when it is first asked for."""
        return self._hosts.told(self._named() if self._hosts.leader else "")

    def _named(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            found = (self._root / _NAME).read_bytes().decode("ascii")
            if re.fullmatch("[0-9a-f]{32}", found):
                return found
        drawn = secrets.token_hex(16)
        with durable.storage_errors(self._root, len(drawn)):
            durable.make_directory(self._root)
            durable.write_file(self._root / _NAME, drawn.encode())
        return drawn

    def save(self, step: int, state: Any, data: dict[str, Any], meta: dict[str, Any]) -> None:
        """Starts saving a PyTree of arrays and two JSON objects; returns once the arrays may be overwritten.

        The checkpoint of a step that is committed stays as it is. When this save cannot start, or the previous
        one failed in the meantime, one more attempt is made and waited for; then CheckpointError with the reason.
        """
        documents = {"data": data, "meta": meta}
        pytree.check_documents(documents)
        # one save at a time: two would hold two copies of the state on the host
        failure = self._settle()
        if step in self.steps():
            return
        if self._hosts.leader:
            with durable.storage_errors(self._root, 0):
                durable.make_directory(self._root)
        place = self._place(step)
        if failure is None:
            try:
                # `start` returns when the arrays are on the host: the next step gives their memory away
                self._pending = (step, _bytes(state), pytree.start(place, state, documents, step))
                return
            except Exception as error:
                failure = self._tell(step, _bytes(state), error)
        if self._hosts.count > 1:
            raise CheckpointError(failure)
        try:
            pytree.start(place, state, documents, step).result(timeout=_SECONDS)
            pytree.sync(place)
        except Exception as error:
            self._sweep()
            raise _failed(place, state, error) from error
        self._thin()

    def restore(self, abstract_state: Any) -> Restored | None:
        """The newest good checkpoint on the devices of `abstract_state`; None when there never was one.

        A damaged one is moved aside to `damaged-<step>` and the next older one is tried. Raises CheckpointError
        when none is good, or when one does not fit the tree, shapes or dtypes of `abstract_state`.
        """
        self._settle()
        for step in reversed(self.steps()):
            try:
                state, documents = pytree.load(self._place(step), abstract_state, ("data", "meta"), step)
                return Restored(step, state, documents["data"], documents["meta"])
            except pytree.DamagedError as error:
                if self._hosts.leader:
                    aside = self._set_aside(step)
                    print(f"{error}; moved to {aside.name}, trying an older one", file=sys.stderr, flush=True)
                # nobody looks for the next one while the leader still moves this one
                self._hosts.barrier("aside")
        if self._hosts.told(self._has_damaged()):
            raise CheckpointError(
                f"{self._root}: every training checkpoint is damaged; delete this directory to begin this fit again"
            )
        return None

    def _has_damaged(self) -> bool:
        return any(name.startswith("damaged-") for name in durable.names(self._root))

    def close(self) -> None:
        """Waits for the save that is under way; CheckpointError when it failed."""
        failure = self._settle()
        if failure is not None:
            raise CheckpointError(f"the last training checkpoint is missing: {failure}")

    def _settle(self) -> str | None:
        """Waits for the save under way and deletes the ones too many; says on stderr, and returns, what failed."""
        if self._pending is None:
            return None
        (step, size, response), self._pending = self._pending, None
        try:
            response.result(timeout=_SECONDS)
            if self._hosts.leader:
                pytree.sync(self._place(step))
        except Exception as error:
            return self._tell(step, size, error)
        # not before: had this one failed, an older one would be the newest
        self._thin()
        return None

    def _tell(self, step: int, size: int, error: Exception) -> str:
        self._sweep()
        message = f"{self._place(step)}: not saved: {durable.refusal(error, self._root, size)}"
        print(message, file=sys.stderr, flush=True)
        return message

    def _thin(self) -> None:
        if self._hosts.leader:
            for old in self._seen()[: -self._keep]:
                pytree.delete(self._place(old))

    def _place(self, step: int) -> epath.Path:
        return self._root / f"{step:08d}"

    def _sweep(self) -> None:
        """Deletes half-written and half-deleted checkpoints; they hold room that the next save may need."""
        if not self._hosts.leader:
            return
        for entry in map(self._root.joinpath, durable.names(self._root)):
            # a damaged one stays for a person to look at
            stays = entry.name == _NAME or entry.name.startswith("damaged-")
            if not stays and not (entry.name.isdecimal() and pytree.exists(entry)):
                with contextlib.suppress(OSError):
                    entry.rmtree() if entry.is_dir() else entry.unlink()

    def _set_aside(self, step: int) -> epath.Path:
        names = set(durable.names(self._root))
        candidates = [f"damaged-{step}", *(f"damaged-{step}-{again}" for again in range(2, len(names) + 3))]
        return self._place(step).rename(self._root / next(name for name in candidates if name not in names))


def _failed(path: epath.Path, tree: Any, error: Exception) -> CheckpointError:
    reason = durable.refusal(error, path.parent, _bytes(tree))
    return CheckpointError(f"{path}: cannot be saved: {reason}. Everything saved before is intact")


def _delete_drafts(path: epath.Path) -> None:
    """Deletes what a failed or killed save of `path` left beside it."""
    draft = re.compile(re.escape(path.name) + r"\.orbax-checkpoint-tmp.*")
    for entry in map(path.parent.joinpath, durable.names(path.parent)):
        if draft.fullmatch(entry.name):
            with contextlib.suppress(OSError):
                entry.rmtree()


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
