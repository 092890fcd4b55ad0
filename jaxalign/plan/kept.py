"""What compilers returned, kept between plans: a second plan of a program reads it and compiles nothing.

JAX's own cache cannot do this: it writes programs for devices that are not here, and reads none of them back, for there
is no device to load one on. A plan needs no program, only what it says of itself: its text and the analysis of its
memory, or the refusal. These are kept, one file a program, and read anew by whatever estimates costs, so that a better
estimate needs no compiler.

An entry is named by the digest of all that the result depends on: the lowered module, the options it is compiled with,
devices and their order, versions of JAX and of the compiler, and what the environment tells these.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxalign.mesh.compiled import ENTRY, OFF, trim, users_cache

MOST_BYTES = 1 << 28
"""Kept in the folder: what was not read for longest goes."""

PACKAGES = ("jax", "jaxlib", "libtpu", "jax-cuda13-plugin", "jax-cuda13-pjrt")
TOLD = ("LIBTPU_INIT_ARGS", "XLA_FLAGS")
"""Variables that compilers heed."""


@dataclass(frozen=True)
class Analysis:
    """Bytes of one device, as compilers name them."""

    argument_size_in_bytes: int
    output_size_in_bytes: int
    alias_size_in_bytes: int
    temp_size_in_bytes: int
    generated_code_size_in_bytes: int
    host_argument_size_in_bytes: int
    host_temp_size_in_bytes: int

    @classmethod
    def of(cls, analysis: Any) -> "Analysis":
        """From a compiled program's `memory_analysis()`."""
        return cls(*(getattr(analysis, field.name) for field in dataclasses.fields(cls)))


@dataclass(frozen=True)
class Returned:
    """What a compiler returned: a program's text and memory, or why it refused."""

    text: str
    memory: Analysis | None
    """None where it refused"""
    seconds: float
    """that it took"""


@dataclass(frozen=True)
class Kept:
    """A folder of results; None keeps nothing."""

    folder: Path | None = None

    def get(self, name: str) -> Returned | None:
        """The entry of that name; None where there is none, and where it cannot be read."""
        if self.folder is None:
            return None
        path = self.folder / f"{name}{ENTRY}"
        try:
            found = json.loads(zlib.decompress(path.read_bytes()))
            os.utime(path)
            memory = None if found["memory"] is None else Analysis(**found["memory"])
            return Returned(found["text"], memory, found["seconds"])
        except (OSError, zlib.error, ValueError, TypeError, KeyError):
            return None

    def put(self, name: str, returned: Returned) -> None:
        """Keeps an entry. A folder that cannot be written is no error: the next plan compiles again."""
        if self.folder is None:
            return
        whole = zlib.compress(json.dumps(dataclasses.asdict(returned)).encode())
        beside = self.folder / f"{name}.{os.getpid()}"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            beside.write_bytes(whole)
            beside.replace(self.folder / f"{name}{ENTRY}")
            trim(self.folder, MOST_BYTES)
        except OSError:
            with contextlib.suppress(OSError):
                beside.unlink()


def kept_in(where: str | None, environment: Mapping[str, str]) -> Kept:
    """In folder `where`; None: in the user's cache, `plans`; "off": nowhere."""
    if where == OFF:
        return Kept()
    try:
        return Kept(Path(where).expanduser() if where else users_cache(environment) / "plans")
    except RuntimeError:  # there is no home
        return Kept()


def name_of(
    module: str, options: Mapping[str, Any] | None, devices: Sequence[int], target: str, versions: Mapping[str, str]
) -> str:
    """The digest that an entry is named by.

    module: as lowered. devices: their ids in the order of the mesh. target: the topology, with all that it is asked for
    by.
    """
    told = {name: os.environ.get(name, "") for name in TOLD}
    beside = json.dumps([dict(options or {}), list(devices), target, dict(versions), told], sort_keys=True)
    return hashlib.sha256(f"{beside}\n{module}".encode()).hexdigest()
