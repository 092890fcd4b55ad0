"""The arrays of one committed checkpoint, read part by part in the host's memory: no device and no mesh of any run.

What `pytree` has loaded onto a mesh lies in an OCDBT database of Zarr 3 arrays, whole and in one place however many
processes wrote it. An array is read along its leading axes, in order; its checksum is the sum of its parts' (see
`checksum`), so it is verified without ever being held, and before its last part is given away.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import tensorstore
from etils import epath

from jaxalign.errors import CheckpointError
from jaxalign.storage import durable, pytree
from jaxalign.storage.checksum import checksum


@dataclasses.dataclass(frozen=True)
class StreamedArrays:
    """Arrays by their names ("blocks/mlp/up"). `described` has dtype, shape and checksum of each; see
    `pytree.contents`."""

    path: epath.Path
    described: dict[str, Any]
    remedy: str = ""
    """what is said behind an error of damage"""

    def parts(self, name: str, leading: int) -> Iterator[np.ndarray]:
        """The parts of an array, one for each index of its first `leading` axes, in order of the indices.

        Raises CheckpointError naming the array when it cannot be read, or after reading all of it, instead of giving
        the last part, when its checksum does not fit. Who stops before the last part has verified nothing.
        """
        array = self._open(name)
        count, size = (math.prod(axes) for axes in (array.shape[:leading], array.shape[leading:]))
        chunk = (array.chunk_layout.read_chunk.shape or ())[leading:]
        found = 0
        for number, at in enumerate(np.ndindex(*array.shape[:leading])):
            values = np.empty(array.shape[leading:], array.dtype.numpy_dtype)
            for block in blocks(values, chunk):
                values[block] = self._done(name, array[(*at, *block)].read())
            found += sum(checksums(values, number * size))
            if number == count - 1 and found % 2**32 != self.described[name]["checksum"]:
                raise pytree.DamagedError(f"{pytree.does_not_fit(self.path, name)}{self.remedy}")
            held = [values]
            del values
            yield held.pop()  # so that nothing here holds it while the caller turns it round, or the next one is read

    def tree(self, abstract: Any) -> Any:
        """All arrays at once, in the structure of `abstract`."""
        names = pytree.named(abstract)
        return jax.tree.unflatten(jax.tree.structure(abstract), [next(self.parts(name, 0)) for name in names])

    def _open(self, name: str) -> Any:
        spec = {
            "driver": "zarr3",
            "kvstore": {
                "driver": "ocdbt",
                "base": durable.kvstore(self.path / "state"),
                "path": f"{name}/",
                "cache_pool": "cache_pool#nodes",
            },
            "context": {"cache_pool#nodes": {"total_bytes_limit": NODES}},
            # what is committed never changes: no look at the disk for what was read before
            "recheck_cached_data": False,
            "recheck_cached_metadata": False,
            "fill_missing_data_reads": False,  # a chunk that is missing is damage, not zeros
        }
        array = self._done(name, tensorstore.open(spec, open=True, read=True))
        wanted = self.described[name]
        if (array.dtype.name, list(array.shape)) != (wanted["dtype"], wanted["shape"]):
            there = f"{array.dtype.name}{list(array.shape)}"
            raise pytree.DamagedError(f"{self.path}: array {name} is {there} on the disk{self.remedy}")
        return array

    def _done(self, name: str, future: Any) -> Any:
        try:
            return future.result()
        except MemoryError as error:
            raise CheckpointError(f"{self.path}: array {name}: not enough memory to read a part of it") from error
        except Exception as error:  # TensorStore's kinds: ValueError, OSError, NotImplementedError, …
            reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
            raise pytree.DamagedError(f"{self.path}: array {name} cannot be read ({reason}){self.remedy}") from error


def blocks(values: np.ndarray, chunk: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Slices that cover an array, each of whole chunks: read at once, an array would take its size twice."""
    sizes = [max(1, min(pair)) for pair in zip(chunk, values.shape, strict=True)]
    for axis in reversed(range(values.ndim)):
        sizes[axis] *= max(1, BLOCK // (math.prod(sizes) * values.itemsize))
    slices = [
        [slice(at, min(at + size, whole)) for at in range(0, whole, size)]
        for whole, size in zip(values.shape, sizes, strict=True)
    ]
    return itertools.product(*slices)


def checksums(values: np.ndarray, first: int) -> Iterator[int]:
    """Of blocks of `values`, whose first element is the one numbered `first` in its array: together they take as much
    memory again as what is summed."""
    flat = values.reshape(-1)
    step = BLOCK // values.itemsize
    for start in range(0, flat.size, step):
        yield int(checksum(flat[start : start + step], np.uint32((first + start) % 2**32)))


BLOCK = 4 * 2**20
"""Bytes that are read, or summed, together."""
NODES = 64 * 2**20
"""Bytes of the database's own tree that are kept, so that it is read once; values are not."""
