"""What a run reads from outside its directory: an experiment names files, and does not say what is in them.

Each input has a fingerprint: a SHA-256, or the value itself where that is short. A file is hashed again only when its
place, size or time of change (ns) is not what it was when it was hashed last.
"""

import concurrent.futures
import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from etils import epath

from jaxalign.config.settings import short
from jaxalign.errors import ConfigError, DataError
from jaxalign.storage import durable
from jaxalign.types import Reads

BLOCK = 16 * 2**20
"""Bytes hashed at once."""
CODE = "code"
"""The field under which the code of components of one's own is pinned."""
SHOWN = 20
"""Differences written out in one error; further ones are counted."""


@dataclasses.dataclass(frozen=True, order=True)
class Input:
    """One thing that is read: `field` of the experiment names it, `name` tells it from others there.

    `place` is where this host has it. Of a file, `size` in bytes and `changed` in ns since 1970 say together with the
    place whether it is still the one that was hashed.
    """

    field: str
    name: str
    place: str
    fingerprint: str
    size: int = 0
    changed: int = 0

    def __str__(self) -> str:
        return f"{self.field}: {self.place}" + ("" if self.place.endswith(self.name) else f" ({self.name})")


def of_values(field: str, place: str, fingerprints: Mapping[str, str]) -> list[Input]:
    """Inputs whose fingerprints are known, by name."""
    return [Input(field, name, place, fingerprint) for name, fingerprint in fingerprints.items()]


def of_files(field: str, files: Mapping[str, str | os.PathLike[str]], known: Sequence[Input] = ()) -> list[Input]:
    """Files by name, hashed side by side unless they are among the `known`: of the same place, size and time of change.

    Raises DataError naming one that cannot be read.
    """
    hashed = {(each.place, each.size, each.changed): each.fingerprint for each in known}
    with concurrent.futures.ThreadPoolExecutor() as pool:  # hashing lets go of Python's lock
        return list(pool.map(lambda name: of_file(field, name, durable.absolute(files[name]), hashed), files))


def of_components(components: Mapping[str, Any], known: Sequence[Input] = ()) -> list[Input]:
    """Files that components of an experiment, by dotted field, say they read."""
    return [
        found for field, each in reading(components).items() for found in of_files(field, _files(field, each), known)
    ]


def of_code(classes: Mapping[str, type], fingerprint: Callable[[type], tuple[str, str]]) -> list[Input]:
    """The code of classes by name, as `fingerprint` gives its file and SHA-256; what is in no file has none."""
    told = {name: fingerprint(cls) for name, cls in classes.items()}
    return [Input(CODE, name, file, digest) for name, (file, digest) in told.items() if digest]


def _files(field: str, component: Reads) -> Mapping[str, str | os.PathLike[str]]:
    """What it reads. Raises its ConfigError with the field that it stands in."""
    try:
        return component.files()
    except ConfigError as error:
        raise ConfigError(f"{field}: {error}") from error


def reading(components: Mapping[str, Any]) -> dict[str, Reads]:
    """Those of the components that read files; a setting of the method's name is none."""
    return {field: each for field, each in components.items() if isinstance(each, Reads) and callable(each.files)}


def of_file(field: str, name: str, path: epath.Path, hashed: Mapping[tuple[str, int, int], str]) -> Input:
    """One file; `hashed` are fingerprints by place, size and time of change."""
    place = os.fspath(path)
    try:
        size, changed = facts(path)
        return Input(field, name, place, hashed.get((place, size, changed)) or digest(path), size, changed)
    except OSError as error:
        raise DataError(f"{field}: {place}: cannot be read: {error.strerror or error}") from error


def facts(path: epath.Path) -> tuple[int, int]:
    """Size in bytes and time of change in ns."""
    if durable.is_local(path):
        found = os.stat(path)
        return found.st_size, found.st_mtime_ns
    there = path.stat()
    return there.length, int(there.mtime * 1e9)


def digest(path: epath.Path) -> str:
    """SHA-256 of the file's bytes."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            total.update(block)
    return total.hexdigest()


def differences(before: Iterable[Input], after: Iterable[Input], then: str, now: str) -> list[str]:
    """A line `prompts: train.jsonl: 1f3a… at the first launch, 9c07… now` for each input that is not the same."""
    old, new = ({(each.field, each.name): each for each in inputs} for inputs in (before, after))
    lines = []
    for key in sorted(old.keys() | new.keys()):
        one, other = (found[key].fingerprint if key in found else "absent" for found in (old, new))
        if one != other:
            lines.append(f"{new.get(key) or old[key]}: {shown(one)} {then}, {shown(other)} {now}")
    return lines


def shown(fingerprint: str) -> str:
    """A fingerprint for people: the beginning of a SHA-256."""
    digest = len(fingerprint) == 64 and set(fingerprint) <= set("0123456789abcdef")
    return fingerprint[:12] if digest else short(fingerprint)


def listed(lines: Sequence[str]) -> str:
    """The first `SHOWN` lines, each on its own, and how many more there are."""
    more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "".join(f"\n  {line}" for line in [*lines[:SHOWN], *more])
