"""One committed value on disk: a directory of files and, written last, a marker that holds their checksums.

    arrays.safetensors   every NumPy array of the value, named by its dotted field
    content.json         everything else
    commit.json          name, kind, SHA-256 and bytes of each file, and a seal over itself

A directory without a whole marker does not exist for readers and is cleared by the next write. Nothing relies on
renaming directories, so the rule also holds on object stores. The same value always gives the same bytes, and
reading never runs code.
"""

import collections.abc
import contextlib
import dataclasses
import json
import math
import types
import typing
from typing import Any, TypeVar

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath
from jaxtyping import AbstractArray

from jaxalign.errors import CheckpointError
from jaxalign.storage import durable
from jaxalign.storage.canonical import sealed, sha256, to_json, unsealed

T = TypeVar("T")

ARRAYS, CONTENT, MARKER = "arrays.safetensors", "content.json", "commit.json"

_DTYPES: dict[str, np.dtype] = {
    "BOOL": np.dtype(bool),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    **{f"F{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
    **{f"I{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)},
}
"""Dtypes by their names in safetensors, whose own NumPy reader knows neither bfloat16 nor 8-bit floats."""


# --------------------------------------------------------------------------------------------------------------
# Directories


def commit(directory: epath.Path, name: str, value: object) -> None:
    """Writes `value` so that it exists wholly or not at all. `name` is its place in the run ("0001/groups").

    Raises CheckpointError when the disk refuses; TypeError when a field is of a kind that cannot be stored.
    """
    files = encode(value)
    marker = {
        "artifact": name,
        "kind": _kind_name(type(value)),
        "files": {file: {"sha256": sha256(content), "bytes": len(content)} for file, content in files.items()},
    }
    with durable.storage_errors(directory, sum(map(len, files.values()))):
        clear(directory)
        durable.make_directory(directory)
        try:
            for file, content in files.items():
                durable.write_file(directory / file, content)
            # a machine that loses its power may keep later writes and lose earlier ones: the files are safe first
            durable.sync_directory(directory)
            durable.write_file(directory / MARKER, to_json(sealed(marker)))
            durable.sync_directory(directory)
        except OSError:
            # of a full disk mostly; what was written holds room that the run needs to end in order
            with contextlib.suppress(OSError):
                clear(directory)
            raise


def committed(directory: epath.Path) -> bool:
    """Whether `directory` holds a whole marker."""
    return _marker(directory) is not None


def read(directory: epath.Path, name: str, kind: type[T] | types.GenericAlias) -> T:
    """The value committed as `name`. Raises CheckpointError naming the file that is absent, damaged or foreign."""
    marker = _marker(directory)
    if marker is None:
        raise CheckpointError(f"{directory}: nothing is committed here")
    remedy = "delete this directory to have it made again"
    try:
        marker = unsealed(marker)
    except ValueError as error:
        raise CheckpointError(f"{directory / MARKER}: damaged ({error}); {remedy}") from error
    if marker["artifact"] != name:
        raise CheckpointError(f"{directory / MARKER}: belongs to {marker['artifact']}, not to {name}; {remedy}")
    if marker["kind"] != _kind_name(kind):
        raise CheckpointError(f"{directory / MARKER}: holds {marker['kind']}, not {_kind_name(kind)}; {remedy}")
    if not set(marker["files"]) <= {ARRAYS, CONTENT}:
        raise CheckpointError(f"{directory / MARKER}: names files that no artifact has; {remedy}")
    files = {}
    for file, expected in marker["files"].items():
        try:
            files[file] = (directory / file).read_bytes()
        except OSError as error:
            raise CheckpointError(f"{directory / file}: cannot be read ({error.strerror}); {remedy}") from error
        if len(files[file]) != expected["bytes"] or sha256(files[file]) != expected["sha256"]:
            raise CheckpointError(f"{directory / file}: damaged (its checksum does not fit); {remedy}")
    try:
        return decode(files, kind)
    except (TypeError, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{directory}: written by another version ({error}); {remedy}") from error


def clear(directory: epath.Path) -> None:
    """Deletes the directory, the marker first, so that an interrupted deletion leaves nothing that looks whole."""
    if directory.exists():
        (directory / MARKER).unlink(missing_ok=True)
        directory.rmtree()


def _marker(directory: epath.Path) -> dict[str, Any] | None:
    try:
        marker = json.loads((directory / MARKER).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None
    return marker if isinstance(marker, dict) else None


def _kind_name(kind: Any) -> str:
    # without its module, where the class may not stay
    return str((typing.get_origin(kind) or kind).__name__)


# --------------------------------------------------------------------------------------------------------------
# Bytes


def encode(value: object) -> dict[str, bytes]:
    """Files of a value: a frozen dataclass, or a dict; equal values give equal bytes."""
    arrays: dict[str, np.ndarray] = {}
    files = {CONTENT: to_json(_flatten(value, "", arrays))}
    if arrays:
        files[ARRAYS] = safetensors.numpy.save(arrays)
    return files


def decode(files: dict[str, bytes], kind: type[T] | types.GenericAlias) -> T:
    """The value of `encode`'s files, rebuilt by the annotations of `kind`; its arrays are read-only."""
    stored = safetensors.deserialize(files[ARRAYS]) if ARRAYS in files else []
    # bytes cannot be written to, and so the arrays over them cannot either: a committed value stays what it is
    arrays = {
        name: np.frombuffer(bytes(array["data"]), _DTYPES[array["dtype"]]).reshape(array["shape"])
        for name, array in stored
    }
    return _build(kind, json.loads(files[CONTENT]), "", arrays)


def _flatten(value: Any, at: str, arrays: dict[str, np.ndarray]) -> Any:
    """JSON for `value` at the dotted field `at`; arrays go into `arrays` and leave None behind."""
    if value is None or isinstance(value, bool | str):  # before int: a bool is one
        return value
    if isinstance(value, np.ndarray):
        if at in arrays:  # {"a.b": x} beside {"a": {"b": y}}
            raise TypeError(f"{at}: two arrays of one name")
        if value.dtype not in _DTYPES.values():
            raise TypeError(f"{at}: arrays of {value.dtype} cannot be stored")
        # safetensors ignores strides; what makes it contiguous makes a scalar one-dimensional
        arrays[at] = np.ascontiguousarray(value).reshape(value.shape)
        return None
    if isinstance(value, np.generic):
        return _flatten(value.item(), at, arrays)
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))  # JSON has no NaN or infinity
    if isinstance(value, tuple | list):
        return [_flatten(item, _join(at, i), arrays) for i, item in enumerate(value)]
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: _flatten(getattr(value, name), _join(at, name), arrays) for name in names}
    if isinstance(value, collections.abc.Mapping) and all(isinstance(key, str) for key in value):
        return {key: _flatten(item, _join(at, key), arrays) for key, item in value.items()}
    raise TypeError(f"{at or 'value'}: {type(value).__name__} cannot be stored")


def _build(kind: Any, plain: Any, at: str, arrays: dict[str, np.ndarray]) -> Any:
    """The inverse of `_flatten`, guided by the annotation `kind`."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if at in arrays and any(map(_is_array, args)):  # of a device's array or the host's, it is the host's
            return arrays[at]
        if plain is None and type(None) in args:
            return None
        (kind,) = (arg for arg in args if arg is not type(None))
        return _build(kind, plain, at, arrays)
    if _is_array(kind):
        return arrays[at]
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = typing.get_type_hints(kind)
        fields = [field.name for field in dataclasses.fields(kind)]
        if sorted(plain) != sorted(fields):
            raise TypeError(f"{at or kind.__name__}: has the fields {sorted(plain)}, not {sorted(fields)}")
        return kind(**{name: _build(hints[name], plain[name], _join(at, name), arrays) for name in fields})
    if origin is tuple:
        kinds = [args[0]] * len(plain) if args[-1] is Ellipsis else list(args)
        return tuple(
            _build(kind, item, _join(at, i), arrays) for i, (kind, item) in enumerate(zip(kinds, plain, strict=True))
        )
    if origin is list:
        return [_build(args[0], item, _join(at, i), arrays) for i, item in enumerate(plain)]
    if origin in (dict, collections.abc.Mapping):
        return {key: _build(args[1], item, _join(at, key), arrays) for key, item in plain.items()}
    if kind is float:
        return float(plain)
    if kind in (bool, int, str) and type(plain) is kind:
        return plain
    raise TypeError(f"{at or 'value'}: {plain!r} is no {kind}")


def _is_array(kind: Any) -> bool:
    return kind is np.ndarray or (isinstance(kind, type) and issubclass(kind, AbstractArray))


def _join(at: str, name: object) -> str:
    return f"{at}.{name}" if at else str(name)
