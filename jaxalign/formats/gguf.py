"""Reads GGUF (versions 2 and 3, little endian): metadata, and tensors dequantised to fp32.

The layout is that of ggml's docs/gguf.md. Only the header is read on opening; the package `gguf` knows the quantised
types. (Its own parser takes seconds for a vocabulary, because it makes an array of every string.)

llama.cpp's converter stores the query and key matrices of the llama architecture with each head's rows interleaved
(row 2i and 2i + 1 make a pair) because it rotates neighbours; Hugging Face rotates row i with row i + h/2. Reading
such a matrix as it lies gives a model that is fluent nonsense and raises no error, so it is put right here.
"""

import dataclasses
import math
import pathlib
import struct
from typing import Any

import gguf
import numpy as np

from jaxalign.errors import ModelError
from jaxalign.formats.weights import Folder, Tensor
from jaxalign.mesh.rounding import rounded

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""GGUF's number types as struct formats."""
STRING, ARRAY = 8, 9
LENGTH = struct.Struct("<Q")
LARGEST_AXES = 4
BLOCK = 64 * 2**20
"""Bytes of fp32 that are made from quantised blocks at once."""


class Cursor:
    """Reads values one after another. Raises EOFError at the end of the file."""

    def __init__(self, data: memoryview):
        self.data = data
        self.at = 0

    def take(self, size: int) -> memoryview:
        """The next `size` bytes. Raises EOFError where the file has fewer."""
        if size > len(self.data) - self.at:
            raise EOFError(f"the file ends at byte {len(self.data)}, inside its header")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, form: str) -> Any:
        """The next number, little-endian, of a `struct` format."""
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0]

    def text(self) -> str:
        """The next string: its length in 8 bytes, then UTF-8."""
        return str(self.take(self.number("Q")), "utf-8")

    def value(self, kind: int) -> Any:
        """The next metadata value of a GGUF type."""
        if kind == STRING:
            return self.text()
        if kind != ARRAY:
            return self.number(SCALARS[kind])
        kind, count = self.number("I"), self.number("Q")
        if kind in SCALARS:
            return np.frombuffer(self.take(count * struct.calcsize("<" + SCALARS[kind])), "<" + SCALARS[kind]).tolist()
        return self.texts(count) if kind == STRING else [self.value(kind) for _ in range(count)]

    def texts(self, count: int) -> list[str]:
        """As `count` calls of `text`, without the calls: vocabularies have a hundred thousand strings."""
        found, data, at = [], self.data, self.at
        for _ in range(count):
            start = at + LENGTH.size
            at = start + LENGTH.unpack_from(data, at)[0]
            found.append(str(data[start:at], "utf-8"))
        self.at = at
        if at > len(data):
            raise EOFError(f"the file ends at byte {len(data)}, inside its header")
        return found


@dataclasses.dataclass(frozen=True)
class Stored:
    """One tensor in the file: [out, in], ggml's type, and its bytes."""

    shape: tuple[int, ...]
    kind: gguf.GGMLQuantizationType
    start: int
    size: int


class GgufFile:
    """One open GGUF file. Raises ModelError when it is missing, cut, or no GGUF."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        if not path.is_file():
            raise ModelError(f"{path}: no such file")
        try:
            self.data = np.memmap(path, np.uint8, mode="r")
            cursor = Cursor(self.data.data)
            self.fields, self.tensors = parse(cursor)
            self.header = cursor.at
        except (ValueError, KeyError, OSError, EOFError, OverflowError, RecursionError, struct.error) as error:
            raise ModelError(f"{path}: not a complete GGUF file: {error}") from error
        if (parts := self.fields.get("split.count", 1)) != 1:
            number = self.fields.get("split.no")
            part = number + 1 if type(number) is int else "?"
            raise ModelError(
                f"{path}: part {part} of a model in {parts} files; join them: llama-gguf-split --merge FIRST_PART NEW"
            )
        for name, tensor in self.tensors.items():
            if tensor.start + tensor.size > self.data.size:
                raise ModelError(f"{path}: tensor {name!r} is cut off: the file ends at byte {self.data.size}")

    def field(self, name: str, kind: type, default: Any = None) -> Any:
        """A metadata value of type `kind`. ModelError when it is missing (without default) or of another type."""
        value = self.fields.get(name, default)
        if not isinstance(value, kind):
            raise ModelError(f"{self.path}: metadata field {name!r} should be {kind.__name__}, not {value!r:.60}")
        return value

    def name(self, tensor: Tensor) -> str:
        if tensor.gguf is None:
            raise ModelError(f"{self.path}: {tensor.hf!r} has no known name in GGUF files")
        return tensor.gguf

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    def where(self, name: str) -> str:
        return str(self.path)

    def read(self, name: str, tensor: Tensor) -> np.ndarray:
        stored = self.tensors[name]
        values = np.empty(stored.shape, np.float32)
        rows = values.reshape(-1, stored.shape[-1])
        width = stored.size // max(1, len(rows))
        step = max(1, BLOCK // max(1, values.itemsize * stored.shape[-1]))
        try:
            for at in range(0, len(rows), step):
                part = rows[at : at + step]
                data = np.fromfile(self.path, np.uint8, len(part) * width, offset=stored.start + at * width)
                with np.errstate(all="ignore"):  # what is not finite is found later, with its name
                    part[...] = gguf.dequantize(data.reshape(len(part), width), stored.kind)
        except (NotImplementedError, KeyError) as error:
            raise ModelError(f"{self.path}: tensor {name!r} is {stored.kind.name}, which cannot be read") from error
        except (OSError, ValueError) as error:
            raise ModelError(f"{self.path}: tensor {name!r} cannot be read ({error})") from error
        values = halves(values, tensor.pairs) if tensor.pairs else values
        return values - np.float32(tensor.offset) if tensor.offset else values

    def files(self) -> dict[str, Folder]:
        return {self.path.name: self.path}


def parse(cursor: Cursor) -> tuple[dict[str, Any], dict[str, Stored]]:
    """Metadata and tensors of the header. Raises ValueError, KeyError or EOFError when it is damaged."""
    if bytes(cursor.take(4)) != b"GGUF":
        raise ValueError("it does not begin with 'GGUF'")
    version, tensors, count = cursor.number("I"), cursor.number("Q"), cursor.number("Q")
    if version not in (2, 3):
        raise ValueError(f"version {version}; this reads 2 and 3")
    fields: dict[str, Any] = {}
    for _ in range(count):
        key = cursor.text()
        if key in fields:
            raise ValueError(f"field {key!r} is there twice")
        fields[key] = cursor.value(cursor.number("I"))
    found: dict[str, Stored] = {}
    for _ in range(tensors):
        name, axes = cursor.text(), cursor.number("I")
        if name in found or axes > LARGEST_AXES:
            raise ValueError(f"tensor {name!r} is there twice, or has {axes} axes")
        # GGUF lists the axis that runs fastest first
        shape = tuple(reversed([cursor.number("Q") for _ in range(axes)]))
        kind, offset = gguf.GGMLQuantizationType(cursor.number("I")), cursor.number("Q")
        block, size = gguf.GGML_QUANT_SIZES[kind]
        if not shape or shape[-1] % block:
            raise ValueError(f"tensor {name!r} of shape {shape} cannot be stored in blocks of {block}")
        found[name] = Stored(shape, kind, offset, math.prod(shape) // block * size)
    alignment = fields.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment < 1:
        raise ValueError(f"general.alignment is {alignment!r}")
    at = 0
    for name, tensor in sorted(found.items(), key=lambda item: item[1].start):
        if tensor.start < at:
            raise ValueError(f"tensor {name!r} overlaps another one")
        at = tensor.start + tensor.size
    start = rounded(cursor.at, alignment)
    return fields, {n: dataclasses.replace(tensor, start=start + tensor.start) for n, tensor in found.items()}


def halves(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows of each head from interleaved pairs (0 1)(2 3)… to halves: evens first, then odds."""
    heads = rows.reshape(-1, head_dim // 2, 2, rows.shape[-1])
    return heads.swapaxes(1, 2).reshape(rows.shape)
