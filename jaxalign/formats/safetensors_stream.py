"""Safetensors files, read and written one tensor at a time.

A file is the length of its header (8 bytes, little endian), the header (JSON: dtype, shape and the place of each
tensor's bytes) and the bytes. The format's own library maps a whole file into memory, where every page that was read
keeps counting, and writes only what is all in memory at once; an 8B model would not fit here either way.
"""

import json
import math
import pathlib
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
from etils import epath

from jaxalign.errors import ModelError

READABLE: Mapping[str, np.dtype] = {
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
}
"""Dtypes of weights by their names in files."""
SIZES = {"BOOL": 1, "F64": 8, "F8_E4M3": 1, "F8_E5M2": 1, **{f"{s}{8 * n}": n for s in "IU" for n in (1, 2, 4, 8)}}
"""Bytes of an element of the other dtypes that a file may hold."""
LENGTH = struct.Struct("<Q")
LARGEST_HEADER = 100_000_000
"""Bytes; the format's own limit."""
POINTER = b"version "
"""What Git LFS begins the file with that it leaves in the place of another."""
BLOCK = 16 * 2**20
"""Bytes read before they are turned into fp32."""


@dataclass(frozen=True)
class Entry:
    """One tensor: its dtype's name, its shape, and its first byte in the file."""

    kind: str
    shape: tuple[int, ...]
    start: int


class SafetensorsFile:
    """The header of one file. Raises ModelError naming the file when it is missing, cut or contradicts itself."""

    def __init__(self, path: pathlib.Path | epath.Path):
        self.path = path
        if not path.is_file():
            raise ModelError(f"{path}: no such file")
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(0)
                self.header = file.read(header_size(file.read(LENGTH.size), size))
            self.entries = parse(self.header, size - LENGTH.size - len(self.header))
        except (OSError, ValueError, RecursionError) as error:
            raise ModelError(f"{path}: not a complete safetensors file ({error})") from error
        self.size = size

    def equals(self, name: str, other: "SafetensorsFile", its: str) -> bool:
        """Whether a tensor is, byte for byte, the one called `its` in a file. ModelError where one cannot be read."""
        mine, theirs = self.entries[name], other.entries[its]
        if (mine.kind, mine.shape) != (theirs.kind, theirs.shape):
            return False
        size = math.prod(mine.shape) * (
            READABLE[mine.kind].itemsize if mine.kind in READABLE else SIZES.get(mine.kind, 1)
        )
        try:
            with self.path.open("rb") as one, other.path.open("rb") as two:
                one.seek(mine.start)
                two.seek(theirs.start)
                parts = (min(BLOCK, size - at) for at in range(0, size, BLOCK))
                return all(exactly(one, part) == exactly(two, part) for part in parts)
        except (OSError, EOFError) as error:
            raise ModelError(f"{self.path}: tensor {name!r} cannot be read ({error})") from error

    def read(self, name: str) -> np.ndarray:
        """One tensor in fp32, converted block by block. ModelError when its dtype is none of READABLE."""
        entry = self.entries[name]
        if entry.kind not in READABLE:
            raise ModelError(f"{self.path}: tensor {name!r} is {entry.kind}; this reads {', '.join(READABLE)}")
        values = np.empty(entry.shape, np.float32)
        flat, dtype = values.reshape(-1), READABLE[entry.kind]
        try:
            with self.path.open("rb") as file:
                file.seek(entry.start)
                for at in range(0, flat.size, BLOCK // dtype.itemsize):
                    part = flat[at : at + BLOCK // dtype.itemsize]
                    part[...] = np.frombuffer(exactly(file, part.size * dtype.itemsize), dtype)
        except (OSError, EOFError) as error:
            raise ModelError(f"{self.path}: tensor {name!r} cannot be read ({error})") from error
        return values


def exactly(file: BinaryIO, size: int) -> bytes:
    """`size` bytes of a file. Raises EOFError where it ends before."""
    content = file.read(size)
    if len(content) != size:
        raise EOFError(f"the file ends {size - len(content)} bytes too soon; has it changed since it was opened?")
    return content


def header_size(prefix: bytes, size: int) -> int:
    """Bytes of the header. Raises ValueError when the file of `size` bytes cannot hold it."""
    if len(prefix) < LENGTH.size:
        raise ValueError(f"it has only {size} bytes")
    length: int = LENGTH.unpack(prefix)[0]
    if prefix == POINTER:
        raise ValueError("it is a Git LFS pointer: fetch the file itself with `git lfs pull`")
    if length > min(LARGEST_HEADER, size - LENGTH.size):
        raise ValueError(f"a header of {length} bytes does not fit into the file")
    return length


def parse(header: bytes, size: int) -> dict[str, Entry]:
    """The tensors of a header, which must fill the `size` bytes after it without gap or overlap. Raises ValueError."""
    listed = json.loads(header.decode("utf-8"), object_pairs_hook=unique)
    if not isinstance(listed, dict):
        raise ValueError("its header is no JSON object")
    found, places = {}, []
    for name, fields in listed.items():
        if name == "__metadata__":
            continue
        kind, shape, (begin, end) = described(name, fields)
        element = READABLE[kind].itemsize if kind in READABLE else SIZES.get(kind)
        if element is not None and end - begin != math.prod(shape) * element:
            raise ValueError(f"tensor {name!r} of shape {shape} has {end - begin} bytes")
        found[name] = Entry(kind, shape, LENGTH.size + len(header) + begin)
        places.append((begin, end))
    at = 0
    for begin, end in sorted(places):
        if begin != at or end < begin:
            raise ValueError(f"byte {at} of its data belongs to no tensor or to two")
        at = end
    if at != size:
        raise ValueError(f"its header describes {at} bytes, and {size} follow")
    return found


def described(name: str, fields: Any) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    """Dtype, shape and place of one entry of a header. Raises ValueError when it has not this form."""
    match fields:
        case {"dtype": str(kind), "shape": [*shape], "data_offsets": [begin, end]}:
            if all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
                return kind, tuple(shape), (begin, end)
    raise ValueError(f"the entry of tensor {name!r} should have dtype, shape and data_offsets")


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises ValueError when it names something twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("its header names a tensor twice")
    return found


def write(
    path: pathlib.Path, dtype: np.dtype, shapes: Mapping[str, tuple[int, ...]], arrays: Iterator[np.ndarray]
) -> None:
    """Writes a file of tensors of one dtype and the given shapes, taking one after another from `arrays`."""
    kind = next(name for name, known in READABLE.items() if known == dtype)
    listed: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in shapes.items():
        end = at + math.prod(shape) * dtype.itemsize
        listed[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    header = json.dumps(listed, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % LENGTH.size)
    with path.open("wb") as file:
        file.write(LENGTH.pack(len(header)) + header)
        for name, shape in shapes.items():
            array = next(arrays)
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(f"tensor {name!r}: promised {dtype}{shape}, got {array.dtype}{array.shape}")
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            del array  # the next one is made before a loop, or zip, would let go of it
