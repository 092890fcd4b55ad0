"""Weight files ↔ parameters, tensor by tensor.

A family lists its parameters once as `Tensor`s; a `Reader` (Hugging Face directory or GGUF) answers for names,
shapes and values in the orientation of Hugging Face, [out, in]. Ours is [in…, out…] with heads as an axis of their
own, and layers stacked in front. Everything is checked before the first tensor is read.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from jaxalign.errors import ModelError
from jaxalign.types import Params

Place = Callable[[tuple[str, ...], np.ndarray], jax.Array]
"""Puts one parameter, named by its path, on the devices that keep it."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One parameter: its path here, its names in files ("{}" is the layer).

    The first `inputs` axes are summed over; 0 means that files keep the array as it is. `pairs` is the head size of
    matrices whose rows GGUF's llama files interleave (see `jaxalign.gguf`), else 0.
    """

    path: tuple[str, ...]
    hf: str
    gguf: str
    inputs: int = 0
    pairs: int = 0

    @property
    def stacked(self) -> bool:
        """Whether there is one for each layer."""
        return "{}" in self.hf

    def file_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape in files of a parameter that has `shape` here (without layers)."""
        return (math.prod(shape[self.inputs :]), math.prod(shape[: self.inputs])) if self.inputs else shape

    def from_file(self, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """A file's array in our shape."""
        return array.T.reshape(shape) if self.inputs else array

    def to_file(self, array: np.ndarray) -> np.ndarray:
        """A parameter of one layer as files keep it."""
        if not self.inputs:
            return array
        return np.ascontiguousarray(array.reshape(math.prod(array.shape[: self.inputs]), -1).T)


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


def check(reader: Reader, tensors: Sequence[Tensor], shapes: Params, ignored: Sequence[str] = ()) -> None:
    """Raises ModelError when a tensor is missing, has another shape, or is not known to the family.

    A tensor that nobody reads would change the maths if it were, so it is an error too; `ignored` are the ends of
    names known to carry nothing.
    """
    found = dict(reader.shapes())
    for tensor in tensors:
        for name, wanted in entries(tensor, reader.name(tensor), shapes):
            if name not in found:
                raise ModelError(f"{reader.where(name)}: tensor {name!r} is missing")
            if found[name] != wanted:
                raise ModelError(
                    f"{reader.where(name)}: tensor {name!r} has shape {found[name]}, but the config says {wanted}"
                )
            del found[name]
    for name in found:
        if not name.endswith(tuple(ignored)):
            raise ModelError(f"{reader.where(name)}: unknown tensor {name!r}; this family has no use for it")


def load(reader: Reader, tensors: Sequence[Tensor], shapes: Params, place: Place) -> Params:
    """The parameters, each handed to `place` as soon as its layers are read. Raises ModelError on values not finite."""
    params: Params = {}
    for tensor in tensors:
        shape = leaf(shapes, tensor.path).shape
        array = np.empty(shape, np.float32)
        listed = entries(tensor, reader.name(tensor), shapes)
        slots = array if tensor.stacked else array[None]
        for slot, (name, _) in zip(slots, listed, strict=True):
            values = reader.read(name, tensor)
            if not np.isfinite(values).all():
                raise ModelError(f"{reader.where(name)}: tensor {name!r} has values that are not finite")
            slot[...] = tensor.from_file(values, slot.shape)
        branch = params
        for step in tensor.path[:-1]:
            branch = branch.setdefault(step, {})
        branch[tensor.path[-1]] = place(tensor.path, array)
    return params


def entries(tensor: Tensor, pattern: str, shapes: Params) -> list[tuple[str, tuple[int, ...]]]:
    """Name and shape in the file of each layer of a stacked parameter, or of the one there is."""
    shape = leaf(shapes, tensor.path).shape
    if not tensor.stacked:
        return [(pattern, tensor.file_shape(shape))]
    return [(pattern.format(layer), tensor.file_shape(shape[1:])) for layer in range(shape[0])]


def leaf(params: Params, path: tuple[str, ...]) -> Any:
    for step in path:
        params = params[step]
    return params
