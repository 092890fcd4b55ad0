"""Model directories in jaxalign's own layout, from which every process reads only what its devices keep.

    config.json, tokenizer.json, …      as in a Hugging Face directory
    parameters/<path>/                  one Zarr 3 array a parameter, stacked layers in front; uncompressed chunks of
                                        at most CHUNK_BYTES inside a layer, each with a CRC-32C
    records/<path>.json                 during an import: a parameter that is whole, with its checksums
    manifest.json                       written last: what is here, where it came from, a SHA-256 for each part (layer,
                                        or layer and expert) of each parameter, and a seal over itself

A whole part is held to its SHA-256 when it is read, a slice of one to the CRCs of the chunks it touches. Paths may be
those of object stores that both TensorStore and etils know (gs://, s3://); only local disks have been tried.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import tensorstore
from etils import epath

from jaxalign.errors import ModelError, first_line
from jaxalign.formats.huggingface import DOCUMENTS, Directory
from jaxalign.formats.stacking import Index
from jaxalign.formats.weights import Folder, Tensor, entries
from jaxalign.storage import canonical, durable

MANIFEST, PARAMETERS, RECORDS = "manifest.json", "parameters", "records"
FORMAT, VERSION = "jaxalign-parameters", 1
DTYPES: Mapping[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
CHUNK_BYTES = 8 * 2**20
"""Largest chunk: small beside a layer, so that a device's slice costs few bytes more than it has."""


@dataclasses.dataclass(frozen=True)
class Record:
    """One whole parameter; `sha256` has an entry for each part, in the order of their indices."""

    shape: tuple[int, ...]
    dtype: str
    sha256: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As the manifest has it."""
        return {"shape": list(self.shape), "dtype": self.dtype, "sha256": list(self.sha256)}


def record(value: Any) -> Record:
    """The record of its JSON. Raises ValueError when it is none."""
    match value:
        case {"shape": [*shape], "dtype": str(dtype), "sha256": [*sums]} if (
            dtype in DTYPES and all(type(n) is int for n in shape) and all(isinstance(s, str) for s in sums)
        ):
            return Record(tuple(shape), dtype, tuple(sums))
    raise ValueError("a parameter should have shape, dtype and sha256")


def key(tensor: Tensor) -> str:
    """A parameter's name in the directory."""
    return ".".join(tensor.path)


class Native:
    """Reads a finished directory; a `Reader` and a `SlicedReader`. Raises ModelError naming file and parameter.

    Tensors go by their Hugging Face names.
    """

    def __init__(self, path: epath.Path, tensors: Sequence[Tensor]):
        self.path = path
        self.records = read_manifest(path)[1]
        self.tensors = {tensor.hf: tensor for tensor in tensors}
        self.arrays: dict[str, Any] = {}

    def name(self, tensor: Tensor) -> str:
        return tensor.hf

    def shapes(self) -> dict[str, tuple[int, ...]]:
        known = {key(tensor): tensor for tensor in self.tensors.values()}
        found = {name: record.shape for name, record in self.records.items() if name not in known}
        for name, tensor in known.items():
            if name in self.records:
                found.update(entries(tensor, tensor.hf, nested(tensor.path, self.records[name])))
        return found

    def where(self, name: str) -> str:
        return str(self.path / MANIFEST)

    def read(self, name: str, tensor: Tensor) -> np.ndarray:
        stored = self.records[key(tensor)]
        for at in np.ndindex(*stored.shape[: tensor.stacked]):
            if tensor.hf.format(*at) == name:
                whole = tuple(slice(0, size) for size in stored.shape[tensor.stacked :])
                return tensor.to_file(self.slice(tensor, at, whole)).astype(np.float32, copy=False)
        raise KeyError(name)

    def slice(self, tensor: Tensor, at: tuple[int, ...], index: Index) -> np.ndarray:
        """Values in the stored dtype, verified."""
        name = key(tensor)
        stored = self.records[name]
        if name not in self.arrays:
            self.arrays[name] = open_array(self.path, name, stored)
        values = read_array(self.path, name, self.arrays[name][(*at, *index)])
        if values.shape == stored.shape[tensor.stacked :]:
            part = np.ravel_multi_index(at, stored.shape[: tensor.stacked]) if at else 0
            if digest(values) != stored.sha256[part]:
                raise ModelError(damaged(self.path, name, f"the SHA-256 of part {list(at)} does not fit"))
        return values

    def files(self) -> dict[str, Folder]:
        """The manifest: it holds the SHA-256 of every part, to which what is read is held."""
        return {MANIFEST: self.path / MANIFEST}


def reader(path: Folder, tensors: Sequence[Tensor]) -> Native | Directory:
    """The parameters of a directory, native or Hugging Face's."""
    place = durable.absolute(path)
    return Native(place, tensors) if is_native(place) else Directory(path)


def contents(path: Folder) -> dict[str, Folder]:
    """By name, the files of a model directory that decide what it computes. Raises ModelError as `reader` does."""
    documents = {name: path / name for name in DOCUMENTS if (path / name).is_file()}
    return {**documents, **reader(path, ()).files()}


def nested(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A tree with one leaf."""
    for step in reversed(path):
        value = {step: value}
    return value


def damaged(path: epath.Path, name: str, reason: str) -> str:
    """What is said of a parameter whose chunks or checksums are not as written."""
    return f"{path / PARAMETERS / name}: parameter {name!r} is damaged: {reason}; import it again into a new directory"


# --------------------------------------------------------------------------------------------------------------
# Manifests and records


def is_native(path: epath.Path) -> bool:
    """Whether a finished directory is at `path`; ModelError when an unfinished one is."""
    if (path / MANIFEST).exists():
        return True
    if (path / RECORDS).exists():
        raise ModelError(f"{path}: this import was interrupted; the same `jaxalign import` command finishes it")
    return False


def write_manifest(path: epath.Path, source: Mapping[str, Any], records: Mapping[str, Record]) -> None:
    """Finishes a directory."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "source": dict(source),
        "parameters": {name: record.to_json() for name, record in records.items()},
    }
    durable.write_file(path / MANIFEST, canonical.to_json(canonical.sealed(content)))
    durable.sync_directory(path)


def read_manifest(path: epath.Path) -> tuple[dict[str, Any], dict[str, Record]]:
    """Source and parameters of a finished directory. Raises ModelError when its manifest is damaged."""
    file = path / MANIFEST
    try:
        content = canonical.unsealed(json.loads(file.read_bytes()))
        if (content["format"], content["version"]) != (FORMAT, VERSION):
            raise ValueError(f"it is {content['format']} {content['version']}; this reads {FORMAT} {VERSION}")
        return content["source"], {name: record(value) for name, value in content["parameters"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{file}: damaged ({error}); import the model again into a new directory") from error


# --------------------------------------------------------------------------------------------------------------
# Arrays


def chunk(shape: tuple[int, ...], leading: int, dtype: np.dtype) -> tuple[int, ...]:
    """Shape of a chunk: of one part, its longest axes halved until CHUNK_BYTES hold it."""
    sizes = [1] * leading + list(shape[leading:])
    while math.prod(sizes) * dtype.itemsize > CHUNK_BYTES:
        longest = sizes.index(max(sizes))
        sizes[longest] = -(-sizes[longest] // 2)
    return tuple(sizes)


def create_array(path: epath.Path, name: str, shape: tuple[int, ...], leading: int, dtype: str) -> Any:
    """A new array, over whatever an interrupted import left in its place."""
    spec = {
        "driver": "zarr3",
        "kvstore": durable.kvstore(path / PARAMETERS / name),
        "metadata": {
            "shape": shape,
            "data_type": dtype,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": chunk(shape, leading, DTYPES[dtype])},
            },
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
        },
        "store_data_equal_to_fill_value": True,  # so that a chunk which is missing is known to be lost
        "create": True,
        "delete_existing": True,
    }
    return tensorstore.open(spec).result()


def open_array(path: epath.Path, name: str, stored: Record) -> Any:
    """A finished array. Raises ModelError when it is not what its record says."""
    spec = {"driver": "zarr3", "kvstore": durable.kvstore(path / PARAMETERS / name), "fill_missing_data_reads": False}
    try:
        array = tensorstore.open(spec, open=True).result()
    except (ValueError, OSError) as error:
        raise ModelError(damaged(path, name, first_line(error))) from error
    if (array.shape, array.dtype.name) != (stored.shape, stored.dtype):
        raise ModelError(damaged(path, name, f"it holds {array.dtype.name}{list(array.shape)}"))
    return array


def read_array(path: epath.Path, name: str, view: Any) -> np.ndarray:
    """What a view of a stored parameter holds. Raises ModelError where its chunks are damaged or missing."""
    try:
        values: np.ndarray = view.read().result()
    except (ValueError, OSError) as error:
        raise ModelError(damaged(path, name, first_line(error))) from error
    return values


def digest(values: np.ndarray) -> str:
    """SHA-256 of the values, little endian, in C order."""
    return hashlib.sha256(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data).hexdigest()
