"""inputs.json: what a run's first launch read from outside its directory, to which every later launch is held.

    date        of the first launch, on process 0; what chat templates are told for ever after
    versions    of what reads the inputs; told when an input differs, never compared
    inputs      field, name, place and fingerprint of each, and of files their size and time of change (see `inputs`)

Until something is computed in the directory every launch pins anew, so that a launch which was killed early, or refused
for its data, leaves no claim behind. From then on another fingerprint is refused, and all hosts must have the same.

Prompts are read and hashed whole at every launch: ids and messages are compared, not the bytes of their file. Of a
model the fields of its config, its tokenizer, template and ids are compared at every launch; its weights are hashed at
the first (16 GB are read once more, at about 1.4 GB/s a core) and later known by their place, size and time. Of a
native directory that is the manifest, which holds a SHA-256 of every part. Who only reads a run compares what it opens:
the weights only where policies are differences from them. The code of components of your own is pinned (see
`config.own_code`), this package's is not (all hosts of a launch must have the same: `alike`).
"""

import dataclasses
import datetime
import json
import socket
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from etils import epath

from jaxalign.config.installed import installed
from jaxalign.errors import CheckpointError, ConfigError
from jaxalign.hosts.group import Hosts
from jaxalign.storage import canonical, durable, twice
from jaxalign.storage.inputs import CODE, Input, differences, listed
from jaxalign.storage.rundir import RunDir

FILE = "inputs.json"
PACKAGES = ("jaxalign", "jax", "jinja2", "tokenizers")


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


def versions() -> dict[str, str]:
    """Of the packages that decide what is made of an input; one that runs from its sources alone has none."""
    return installed(PACKAGES)


def changed(run: RunDir) -> dict[str, list[str | None]]:
    """Packages by name that have another version here than at the run's first launch, with both. Called by all
    processes."""
    before, here = recall(run), versions()
    first = before.versions if before is not None else here
    return {name: [first.get(name), here.get(name)] for name in PACKAGES if first.get(name) != here.get(name)}


def recall(run: RunDir) -> Pinned | None:
    """What was pinned here, as process 0 reads it; None while nothing is computed yet.

    Raises CheckpointError when inputs.json is damaged, or absent although something was computed.
    """
    if not run.begun():
        return None
    # who waits to be told would wait for ever if process 0 left with its error
    found = run.hosts.told(_read(run.path, run.writable) if run.hosts.leader else {})
    if "error" in found:
        raise CheckpointError(found["error"])
    return parsed(found["content"])


def _read(root: epath.Path, mend: bool) -> dict[str, Any]:
    """The content of inputs.json, or the error why there is none."""
    try:
        return {"content": read(root, mend)}
    except CheckpointError as error:
        return {"error": str(error)}


def pin(run: RunDir, before: Pinned | None, now: Pinned) -> None:
    """Holds the inputs of `now` to those of `before` (of `recall`), or pins them where there are none.

    To be called by all processes, before anything is computed. Raises ConfigError naming what differs, from `before` or
    between the hosts.
    """
    agree(run.hosts, now.inputs)
    if before is not None:
        # a run that another version began has no code pinned: it is from now on
        coded = any(each.field == CODE for each in before.inputs)
        before.check([each for each in now.inputs if coded or each.field != CODE], run.path)
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
    sealed = canonical.to_json(canonical.sealed(content))
    with durable.storage_errors(root, len(sealed)):
        twice.write(root / FILE, sealed)
        durable.sync_directory(root)


def read(root: epath.Path, mend: bool = False) -> dict[str, Any]:
    """The content of inputs.json; see `twice.read`."""
    file = root / FILE
    try:
        content = canonical.unsealed(
            json.loads(twice.read(file, mend, lambda told: canonical.unsealed(json.loads(told))))
        )
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
