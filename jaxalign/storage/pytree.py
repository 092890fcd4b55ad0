"""One PyTree of arrays in one atomic Orbax directory, with its own integrity.

A directory holds named items: `state` (the arrays, by path), documents such as `data` and `meta` (JSON), and
`integrity`: dtype, shape and checksum of every array, a digest of the documents, and a seal over itself. Orbax casts
dtypes silently and does not notice most flipped bits, so both are compared here after loading. What needs an array part
by part, on the host alone, reads it as `streamed` does.
"""

import contextlib
import functools
import gc
import itertools
import json
import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from orbax.checkpoint import v1 as ocp

from jaxalign.errors import CheckpointError
from jaxalign.storage import canonical, durable
from jaxalign.storage.checksum import checksum

_COMMITTED = "commit_success.txt"  # Orbax writes it last, inside every checkpoint
CHUNK_BYTES = 4 * 2**20
"""Largest piece in which an array is stored: small beside a layer, so that reading a slice reads few bytes more."""
_LARGE = 2**20
"""Bytes; leading axes of an array whose indices hold at least so much each are stored index by index."""


class DamagedError(CheckpointError):
    """The checkpoint was once whole: an older one may be used in its place."""


def exists(path: epath.Path) -> bool:
    """Whether a checkpoint is committed at `path`."""
    return (path / _COMMITTED).exists()


def delete(path: epath.Path) -> None:
    """Deletes a checkpoint, or a directory of them, so that an interrupted deletion leaves nothing that looks whole."""
    if path.exists() or exists(path):  # the listing of a bucket may not show it yet, and then no more than this goes
        with durable.storage_errors(path, 0):
            (path / _COMMITTED).unlink(missing_ok=True)
            if path.exists():
                path.rmtree()


@functools.cache
def _context() -> Any:
    """Orbax's options: each item has its handler by name.

    Directories are made before a save returns: made in the background, they can leave threads waiting for ever once
    the disk refuses. Nothing is compressed: on weights that saves 8 % of the bytes and costs half of the time.
    """
    registry = ocp.handlers.local_registry(include_global_registry=False)
    registry.add(ocp.handlers.PyTreeHandler, checkpointable_name="state")
    for name in ("data", "meta", "integrity"):
        registry.add(ocp.handlers.JsonHandler, checkpointable_name=name)
    context = ocp.Context()
    context.asynchronous.create_directories_asynchronously = False
    context.array.saving.use_compression = False
    context.array.saving.scoped_storage_options_creator = _in_chunks
    context.checkpointables.registry = registry
    return context


def _in_chunks(path: Any, leaf: Any) -> Any:
    """Layers and experts apart. Left alone, Orbax stores what a device has of a stack of layers in one piece, which
    has to be read whole for any slice of any layer."""
    each = [math.prod(leaf.shape[axis + 1 :]) * leaf.dtype.itemsize for axis in range(leaf.ndim)]
    apart = tuple(itertools.takewhile(lambda axis: each[axis] >= _LARGE, range(leaf.ndim)))
    return ocp.options.ArrayOptions.Saving.StorageOptions(chunk_byte_size=CHUNK_BYTES, shard_axes=apart)


def start(path: epath.Path, tree: Any, documents: dict[str, dict[str, Any]], step: int | None) -> Any:
    """Begins an atomic save; the response's `result()` waits for it and raises what went wrong."""
    leaves = named(tree)
    sums = _checksums(leaves)
    integrity = {
        "step": step,
        "documents": canonical.sha256(canonical.to_json(documents)),
        "arrays": {name: {**_described(leaf), "checksum": sums[name]} for name, leaf in leaves.items()},
    }
    items = {"state": leaves, **documents, "integrity": canonical.sealed(integrity)}
    with _context():
        return ocp.save_checkpointables_async(path, items)


def check_documents(documents: dict[str, dict[str, Any]]) -> None:
    """Raises TypeError for a document that JSON would change on the way."""
    for name, document in documents.items():
        if json.loads(json.dumps(document)) != document:
            raise TypeError(f"{name}: would not come back from JSON as it is (a tuple? a key that is no string?)")


def load(path: epath.Path, abstract: Any, names: tuple[str, ...], step: int | None) -> tuple[Any, dict[str, Any]]:
    """(tree, documents) of a checkpoint, verified against its integrity item and against `abstract`."""
    arrays, documents = contents(path, names, step)
    compare(path, arrays, abstract)
    leaves = named(abstract)
    loaded = _read(path, {"state": {name: _abstract(leaf) for name, leaf in leaves.items()}})["state"]
    sums = _checksums(loaded)
    for name, expected in arrays.items():
        if sums[name] != expected["checksum"]:
            raise DamagedError(does_not_fit(path, name))
    return jax.tree.unflatten(jax.tree.structure(abstract), [loaded[name] for name in leaves]), documents


def contents(path: epath.Path, names: tuple[str, ...], step: int | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """(arrays, documents): dtype, shape and checksum of each array by its name, and the documents called `names`.

    Raises DamagedError when the integrity item does not fit itself, the documents or `step`.
    """
    items = _read(path, dict.fromkeys((*names, "integrity")))
    try:
        integrity = canonical.unsealed(items.pop("integrity"))
        if integrity["documents"] != canonical.sha256(canonical.to_json(items)):
            raise ValueError("its documents do not fit")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"{path}: damaged (data, meta or integrity item)") from error
    if integrity["step"] != step:
        raise DamagedError(f"{path}: holds step {integrity['step']}, not {step}")
    return integrity["arrays"], items


def does_not_fit(path: epath.Path, name: str) -> str:
    """What is said of an array whose bytes are not those that were written."""
    return f"{path}: array {name} is damaged (its checksum does not fit)"


def _read(path: epath.Path, items: dict[str, Any]) -> dict[str, Any]:
    with _abandoned_reads_muted() as collect:
        try:
            with _context():
                return jax.block_until_ready(dict(ocp.load_checkpointables(path, items)))
        except Exception as error:  # damage surfaces as a dozen kinds, the reason often inside the outermost
            inner: BaseException = error
            while inner.__cause__ is not None:
                inner = inner.__cause__
            reason = " ".join(str(inner).split())[:300]  # Orbax's run over lines
            message = f"{path}: cannot be read ({type(inner).__name__}: {reason})"
            # Too little memory says nothing about the checkpoint.
            memory = isinstance(inner, MemoryError) or "RESOURCE_EXHAUSTED" in message
            del inner  # and with it the frames that hold the abandoned reads
        collect()
    raise (CheckpointError if memory else DamagedError)(message)


@contextlib.contextmanager
def _abandoned_reads_muted() -> Iterator[Callable[[], None]]:
    """Yields a function to call after a failed read; keeps what follows the failure off the terminal.

    Orbax reads arrays all at once and, when one fails, abandons the others. These complain, then or later, that
    their event loop is closed or that nobody awaited them.
    """
    before = sys.unraisablehook

    def hook(event: Any) -> None:
        if "Event loop is closed" not in str(event.exc_value) and not isinstance(event.exc_value, RuntimeWarning):
            before(event)

    def collect() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            gc.collect()
            time.sleep(0.1)  # reads still under way end within milliseconds
            gc.collect()

    log = logging.getLogger("asyncio")
    level = log.level
    sys.unraisablehook = hook
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield collect
    finally:
        log.setLevel(level)
        sys.unraisablehook = before


def compare(path: epath.Path, saved: dict[str, Any], abstract: Any) -> None:
    """Raises CheckpointError naming the first array that is not in `saved` (see `contents`) as in `abstract`."""
    wanted = named(abstract)
    for name in sorted(saved.keys() | wanted.keys()):
        if name not in wanted:
            raise CheckpointError(f"{path}: holds an array {name} that this model does not have")
        if name not in saved:
            raise CheckpointError(f"{path}: has no array {name}")
        there = {key: saved[name][key] for key in ("dtype", "shape")}
        if there != _described(wanted[name]):
            here = _described(wanted[name])
            raise CheckpointError(
                f"{path}: array {name} is {there['dtype']}{there['shape']}, not {here['dtype']}{here['shape']}"
            )


def sync(path: epath.Path) -> None:
    """Orbax syncs its arrays but neither its metadata nor the last rename; on a local disk, this does."""
    if not durable.is_local(path):
        return
    for directory, _, files in os.walk(path):
        for file in files:
            handle = os.open(os.path.join(directory, file), os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        durable.sync_directory(epath.Path(directory))
    durable.sync_directory(path.parent)


def named(tree: Any) -> dict[str, Any]:
    """Leaves by path ("params/layers/attention/query"), in the order of the tree."""
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    leaves = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}
    if len(leaves) != len(paths):
        raise TypeError("two arrays of one name")
    return leaves


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _described(leaf: Any) -> dict[str, Any]:
    return {"dtype": str(leaf.dtype), "shape": list(leaf.shape)}


def _checksums(leaves: dict[str, Any]) -> dict[str, int]:
    """One program for all arrays on the same devices: where hosts share them, each costs a round of messages."""
    together: dict[Any, list[str]] = {}
    for name, leaf in leaves.items():
        together.setdefault(frozenset(leaf.sharding.device_set), []).append(name)
    sums = [(names, _all_checksums([leaves[name] for name in names])) for names in together.values()]
    return {name: int(value) for names, found in sums for name, value in zip(names, np.asarray(found), strict=True)}


@jax.jit
def _all_checksums(leaves: list[jax.Array]) -> jax.Array:
    # Arithmetic happens in a device's own memory: what is kept on the host is fetched inside the program.
    return jnp.stack([checksum(jax.device_put(leaf, jax.memory.Space.Device)) for leaf in leaves])
