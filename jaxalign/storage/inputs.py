"""What a run reads from outside its directory, pinned at its first launch: inputs.json.

A config names files; it does not say what is in them. Here stands what was in them, by the field that names them:

    date        of the first launch, on process 0; what chat templates are told for ever after
    versions    of what reads the inputs; told when an input differs, never compared
    inputs      field, name, place, fingerprint: a SHA-256, or the value itself where that is short

Until something is computed in the directory every launch pins anew, so that a launch which was killed early, or refused
for its data, leaves no claim behind. From then on another fingerprint is refused. A file is hashed again only when its
place, size or time of change (ns) is not what it was when it was hashed last, so a checkpoint of 16 GB is read once
more at the first launch and never again. Prompts are read and hashed whole at every launch: ids and messages are
compared, not the bytes of their file. Code is not pinned, neither this package's nor that of a component of your own.
"""

import concurrent.futures
import contextlib
import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import os
import socket
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from etils import epath

from jaxalign.config.settings import short
from jaxalign.errors import CheckpointError, ConfigError, DataError
from jaxalign.hosts.group import Hosts
from jaxalign.storage import artifact, durable
from jaxalign.storage.rundir import RunDir
from jaxalign.types import Reads

FILE = "inputs.json"
PACKAGES = ("jaxalign", "jax", "jinja2", "tokenizers")
BLOCK = 16 * 2**20
"""Bytes hashed at once."""
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


@dataclasses.dataclass(frozen=True)
class Pinned:
    """The inputs of a launch, and its date."""

    date: datetime.date
    inputs: tuple[Input, ...]
    versions: Mapping[str, str]

    def check(self, now: Sequence[Input], run: epath.Path, fields: Collection[str] | None = None) -> None:
        """Raises ConfigError naming what of `now` is not what is pinned: all of it, or what some `fields` name."""
        before = [each for each in self.inputs if fields is None or each.field in fields]
        lines = differences(before, now, "at the first launch", "now")
        if not lines:
            return
        here = versions()
        lines += [
            f"{name}: version {self.versions.get(name)} at the first launch, {here.get(name)} now"
            for name in PACKAGES
            if self.versions.get(name) != here.get(name)
        ]
        raise ConfigError(
            f"{run}: this run reads other inputs than at its first launch ({self.date}); put back what it was made "
            f"from, or start another directory{listed(lines)}"
        )


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
    more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "".join(f"\n  {line}" for line in [*lines[:SHOWN], *more])


def versions() -> dict[str, str]:
    """Of the packages that decide what is made of an input; one that runs from its sources alone has none."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


# --------------------------------------------------------------------------------------------------------------
# Collecting


def of_values(field: str, place: str, fingerprints: Mapping[str, str]) -> list[Input]:
    """Inputs whose fingerprints are known, by name."""
    return [Input(field, name, place, fingerprint) for name, fingerprint in fingerprints.items()]


def of_files(field: str, files: Mapping[str, str | os.PathLike[str]], before: Pinned | None) -> list[Input]:
    """Files by name, hashed side by side unless they are still those that were hashed `before`.

    Raises DataError naming one that cannot be read.
    """
    hashed = {(each.place, each.size, each.changed): each.fingerprint for each in (before.inputs if before else ())}
    with concurrent.futures.ThreadPoolExecutor() as pool:  # hashing lets go of Python's lock
        return list(pool.map(lambda name: of_file(field, name, durable.absolute(files[name]), hashed), files))


def of_components(components: Mapping[str, Any], before: Pinned | None) -> list[Input]:
    """Files that components of an experiment, by dotted field, say they read."""
    return [found for field, each in reading(components).items() for found in of_files(field, each.files(), before)]


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


# --------------------------------------------------------------------------------------------------------------
# Pinning


def recall(run: RunDir) -> Pinned | None:
    """What was pinned here, as process 0 reads it; None while nothing is computed yet.

    Raises CheckpointError when inputs.json is damaged, or absent although something was computed.
    """
    if not run.begun():
        return None
    return parsed(run.hosts.told(read(run.path) if run.hosts.leader else {}))


def pin(run: RunDir, before: Pinned | None, now: Pinned) -> None:
    """Holds the inputs of `now` to those of `before` (of `recall`), or pins them where there are none.

    To be called by all processes, before anything is computed. Raises ConfigError naming what differs, from `before` or
    between the hosts.
    """
    agree(run.hosts, now.inputs)
    if before is not None:
        before.check(now.inputs, run.path)
        # The same fingerprints; files that were touched or moved are known by their new time and place from now on.
        now = dataclasses.replace(before, inputs=tuple(sorted(now.inputs)))
    if run.hosts.leader and now != before:
        write(run.path, now)
    run.hosts.barrier("inputs")


def agree(hosts: Hosts, inputs: Sequence[Input]) -> None:
    """Raises ConfigError, the same on every process, unless all hosts read the same inputs."""
    told = hosts.each([socket.gethostname(), [dataclasses.astuple(each) for each in inputs]])
    found = [
        (f"on {name} (process {index})", [Input(*each) for each in read]) for index, (name, read) in enumerate(told)
    ]
    (first, wanted), *others = found
    lines = [line for where, read in others for line in differences(wanted, read, first, where)]
    if lines:
        raise ConfigError(f"the hosts of this run read different inputs; give all of them the same{listed(lines)}")


def write(root: epath.Path, pinned: Pinned) -> None:
    """Writes inputs.json, whole or not at all."""
    content = {
        "date": pinned.date.isoformat(),
        "versions": dict(pinned.versions),
        "inputs": [dataclasses.asdict(each) for each in sorted(pinned.inputs)],
    }
    sealed = artifact.to_json({**content, "seal": artifact.sha256(artifact.to_json(content))})
    with durable.storage_errors(root, len(sealed)):
        durable.write_file(root / FILE, sealed)
        durable.sync_directory(root)


def read(root: epath.Path) -> dict[str, Any]:
    """The content of inputs.json."""
    file = root / FILE
    try:
        content = json.loads(file.read_bytes())
        seal = content.pop("seal", None)
        if seal != artifact.sha256(artifact.to_json(content)):
            raise ValueError("its seal does not fit")
        parsed(content)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{file}: is missing, so that nobody can say what this run was made from; put it back, or start another "
            "directory"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{file}: damaged ({error}); put it back, or start another directory") from error
    return content


def parsed(content: Mapping[str, Any]) -> Pinned:
    """What `write` wrote."""
    date = datetime.date.fromisoformat(content["date"])
    return Pinned(date, tuple(Input(**each) for each in content["inputs"]), dict(content["versions"]))


def today(hosts: Hosts) -> datetime.date:
    """The local date of process 0."""
    return datetime.date.fromisoformat(hosts.told(datetime.date.today().isoformat()))
