"""Weight files ↔ parameters, tensor by tensor.

A family lists its parameters once as `Tensor`s; a `Reader` (Hugging Face directory or GGUF) answers for names,
shapes and values in the orientation of Hugging Face, [out, in]. Ours is [in…, out…] with heads as an axis of their
own, and layers stacked in front. Everything is checked before the first tensor is read, and then one tensor at a time
is in the host's memory (see `stacking`).
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax
import numpy as np
from etils import epath

from jaxalign.errors import ModelError
from jaxalign.formats.stacking import SMALL, Fetch, Index, stack
from jaxalign.types import Params

Folder: TypeAlias = pathlib.Path | epath.Path
"""A directory or a file, on a disk or in a bucket."""
Place = Callable[[tuple[str, ...]], jax.sharding.Sharding | None]
"""The sharding of one parameter, named by its path; None for JAX's default device."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One parameter: its path here, and its names in files.

    In `hf` each "{}" stands for the index of a leading axis of the parameter: the layer, then the expert. One part is
    one file tensor: what is left when those axes are indexed. `gguf` is None where no GGUF file of the family is read.

    `inputs` says how a part lies in files. None: as here. Else its first `inputs` axes are summed over and the rest
    are produced; files have [out, in], or [out] when nothing is summed over (biases).

    What GGUF changes, its reader puts right: `pairs` is the head size of matrices whose rows llama files interleave
    (see `jaxalign.formats.gguf`), else 0; `offset` is what the file adds to every value (1 in the norms of Gemma).
    """

    path: tuple[str, ...]
    hf: str
    gguf: str | None
    inputs: int | None = None
    pairs: int = 0
    offset: float = 0.0

    @property
    def stacked(self) -> int:
        """How many leading axes are indexed by names: 0, 1 (layers) or 2 (layers, experts)."""
        return self.hf.count("{}")

    def file_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape in files of a part that has `shape` here."""
        if self.inputs is None:
            return shape
        produced = math.prod(shape[self.inputs :])
        return (produced, math.prod(shape[: self.inputs])) if self.inputs else (produced,)

    def from_file(self, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """A file's array as a part of `shape`."""
        return array.T.reshape(shape) if self.inputs else array.reshape(shape)

    def to_file(self, array: np.ndarray) -> np.ndarray:
        """A part as files keep it."""
        if not self.inputs:
            return array.reshape(self.file_shape(array.shape))
        return np.ascontiguousarray(array.reshape(math.prod(array.shape[: self.inputs]), -1).T)

    def parts(self, array: np.ndarray) -> np.ndarray:
        """View of the parameter (contiguous) with one leading axis that counts its parts, in the order of `entries`."""
        return array.reshape(-1, *array.shape[self.stacked :])


@runtime_checkable
class Reader(Protocol):
    """Tensors of one model on disk, by the names of that format."""

    def name(self, tensor: Tensor) -> str:
        """The tensor's name in this format, "{}" for the layer."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor there is, [out, in]."""

    def where(self, name: str) -> str:
        """The file that holds it, for messages."""

    def read(self, name: str, tensor: Tensor) -> np.ndarray:
        """Values in fp32, rows in the order of Hugging Face."""

    def files(self) -> Mapping[str, Folder]:
        """By name, the files whose bytes decide every value."""


def check(reader: Reader, tensors: Sequence[Tensor], shapes: Params, ignored: Sequence[str] = ()) -> None:
    """Raises ModelError when a tensor is missing, has another shape, or is not known to the family.

    A tensor that nobody reads would change the maths if it were, so it is an error too; `ignored` are the ends of
    names known to carry nothing.
    """
    found = dict(reader.shapes())
    for tensor in tensors:
        for name, wanted in entries(tensor, reader.name(tensor), shapes):
            if name not in found:
                wrapped = next((f", but {other!r} is there" for other in found if other.endswith(f".{name}")), "")
                raise ModelError(f"{reader.where(name)}: tensor {name!r} is missing{wrapped}")
            if found[name] != wanted:
                raise ModelError(
                    f"{reader.where(name)}: tensor {name!r} has shape {found[name]}, but the config says {wanted}"
                )
            del found[name]
    for name in found:
        if not name.endswith(tuple(ignored)):
            raise ModelError(f"{reader.where(name)}: unknown tensor {name!r}; this family has no use for it")


@runtime_checkable
class SlicedReader(Protocol):
    """A reader that can also read a slice of a part, in our layout."""

    def slice(self, tensor: Tensor, at: tuple[int, ...], index: Index) -> np.ndarray:
        """Values in `index` of the part at the leading indices `at`."""


@dataclasses.dataclass(frozen=True)
class Stored:
    """A model's parameters in files, ready to be loaded."""

    reader: Reader
    tensors: tuple[Tensor, ...]

    def __call__(self, shapes: Params, place: Place) -> Params:
        return load(self.reader, self.tensors, shapes, place)


def load(reader: Reader, tensors: Sequence[Tensor], shapes: Params, place: Place, small: int = SMALL) -> Params:
    """The parameters, fp32, each part put where it is kept as soon as it is read; `small` as in `stack`.

    Raises ModelError on values that are not finite.
    """
    params: Params = {}
    for tensor in tensors:
        shape = leaf(shapes, tensor.path).shape
        opened = functools.partial(fetch, reader, tensor, shape[tensor.stacked :])
        branch = params
        for step in tensor.path[:-1]:
            branch = branch.setdefault(step, {})
        branch[tensor.path[-1]] = stack(shape, tensor.stacked, opened, place(tensor.path), small)
    return params


def fetch(reader: Reader, tensor: Tensor, shape: tuple[int, ...], at: tuple[int, ...]) -> Fetch:
    """Reads slices of the part of `shape` at the leading indices `at`."""
    if isinstance(reader, SlicedReader):
        return lambda index: finite(reader, tensor, at, reader.slice(tensor, at, index))
    return part(reader, tensor, shape, at).__getitem__


def part(reader: Reader, tensor: Tensor, shape: tuple[int, ...], at: tuple[int, ...]) -> np.ndarray:
    """The whole part of `shape` at the leading indices `at`. Raises ModelError on values that are not finite."""
    values = reader.read(reader.name(tensor).format(*at), tensor)
    return tensor.from_file(finite(reader, tensor, at, values), shape)


def finite(reader: Reader, tensor: Tensor, at: tuple[int, ...], values: np.ndarray) -> np.ndarray:
    """The same values. Raises ModelError naming the tensor when one of them is infinite or not a number."""
    if not all_finite(values):
        name = reader.name(tensor).format(*at)
        raise ModelError(f"{reader.where(name)}: tensor {name!r} has values that are not finite")
    return values


def all_finite(values: np.ndarray) -> bool:
    """As np.isfinite(values).all(), a block at a time: the answers for a whole tensor take up to half of its size."""
    rows = max(1, 2**22 * len(values) // max(1, values.size))
    return all(np.isfinite(values[start : start + rows]).all() for start in range(0, len(values), rows))


def entries(tensor: Tensor, pattern: str, shapes: Params) -> list[tuple[str, tuple[int, ...]]]:
    """Name and file shape of each part of a parameter; `pattern` is its name in the format at hand."""
    shape = leaf(shapes, tensor.path).shape
    lead, part = shape[: tensor.stacked], tensor.file_shape(shape[tensor.stacked :])
    return [(pattern.format(*index), part) for index in np.ndindex(*lead)]


def leaf(params: Params, path: tuple[str, ...]) -> Any:
    """What lies at a path of the nested parameters."""
    for step in path:
        params = params[step]
    return params
