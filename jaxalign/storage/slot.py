"""Where one policy lies, or what belongs to one: on storage that all hosts of a run share."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from etils import epath

from jaxalign.errors import CheckpointError
from jaxalign.hosts.group import ALONE, Hosts
from jaxalign.storage import checkpoint, pytree
from jaxalign.storage.streamed import StreamedArrays
from jaxalign.types import Params

_SECONDS_TO_SEE = 60.0
"""How long a network file system may take to show one host what another has written and synced."""


@dataclass(frozen=True)
class PolicySlot:
    """One iterate's place in the run directory."""

    path: epath.Path
    iterate: int
    hosts: Hosts = ALONE
    remedy: str = "delete this directory, and the command that made the run makes it again"
    """what to do where it is damaged"""

    def exists(self) -> bool:
        """Whether the policy is committed."""
        return self.hosts.told(pytree.exists(self.path))

    def save(self, params: Params, meta: dict[str, Any]) -> None:
        """Commits the policy; see `checkpoint.save_policy`."""
        checkpoint.save_policy(self.path, params, {**meta, "iterate": self.iterate}, self.hosts)

    def load(self, abstract_params: Params) -> Params:
        """The policy on the devices of `abstract_params`; see `checkpoint.load_policy`."""
        shows(lambda: pytree.exists(self.path), self.hosts)
        with self._remedied():
            params, meta = checkpoint.load_policy(self.path, abstract_params)
        self._refuse_other(meta)
        return params

    def stream(self, abstract_params: Params) -> StreamedArrays:
        """The policy on the disk, to be read part by part on this host; see `checkpoint.stream_policy`."""
        with self._remedied():
            arrays, meta = checkpoint.stream_policy(self.path, abstract_params)
        self._refuse_other(meta)
        return dataclasses.replace(arrays, remedy=f"; {self.remedy}")

    @contextlib.contextmanager
    def _remedied(self) -> Iterator[None]:
        """Errors of damage, with what to do."""
        try:
            yield
        except pytree.DamagedError as error:
            raise pytree.DamagedError(f"{error}; {self.remedy}") from error

    def _refuse_other(self, meta: dict[str, Any]) -> None:
        if meta["iterate"] != self.iterate:
            raise CheckpointError(f"{self.path}: holds iterate {meta['iterate']}, not {self.iterate}; {self.remedy}")


def shows(there: Callable[[], bool], hosts: Hosts) -> bool:
    """Whether what another process has written is there; network file systems may show it late."""
    limit = time.monotonic() + (0.0 if hosts.count == 1 else _SECONDS_TO_SEE)
    while not there():
        if time.monotonic() >= limit:
            return False
        time.sleep(0.2)
    return True
