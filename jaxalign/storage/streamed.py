"""The arrays of one committed checkpoint, read part by part in the host's memory: no device and no mesh of any run.

What `pytree` has loaded onto a mesh lies in an OCDBT database of Zarr 3 arrays, whole and in one place however many
processes wrote it. An array is read along its leading axes, in order; its checksum is the sum of its parts' (see
`checksum`), so it is verified without ever being held, and before its last part is given away.
"""

import dataclasses
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

    def parts(self, name: str, leading: int) -> Iterator[np.ndarray]:
        """The parts of an array, one for each index of its first `leading` axes, in order of the indices.

        Raises CheckpointError naming the array when it cannot be read, or after reading all of it, instead of giving
        the last part, when its checksum does not fit. Who stops before the last part has verified nothing.
        """
        array = self._open(name)
        count, size = (math.prod(axes) for axes in (array.shape[:leading], array.shape[leading:]))
        found = 0
        for number, at in enumerate(np.ndindex(*array.shape[:leading])):
            values = self._done(name, array[at].read())
            found = (found + int(checksum(values, np.uint32(number * size % 2**32)))) % 2**32
            if number == count - 1 and found != self.described[name]["checksum"]:
                raise pytree.DamagedError(pytree.does_not_fit(self.path, name))
            yield values
            del values  # or it would be held while the next one is read

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
            "recheck_cached_data": False,
            "recheck_cached_metadata": False,
            "fill_missing_data_reads": False,
        }
        array = self._done(name, tensorstore.open(spec, open=True, read=True))
        wanted = self.described[name]
        if (array.dtype.name, list(array.shape)) != (wanted["dtype"], wanted["shape"]):
            raise pytree.DamagedError(f"{self.path}: array {name} is {array.dtype.name}{list(array.shape)} on the disk")
        return array

    def _done(self, name: str, future: Any) -> Any:
        try:
            return future.result()
        except MemoryError as error:
            raise CheckpointError(f"{self.path}: array {name}: not enough memory to read a part of it") from error
        except Exception as error:  # TensorStore's kinds: ValueError, OSError, NotImplementedError, …
            reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
            raise pytree.DamagedError(f"{self.path}: array {name} cannot be read ({reason})") from error


NODES = 64 * 2**20
"""Bytes of the database's own tree that are kept, so that it is read once; values are not."""
