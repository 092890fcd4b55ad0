"""Do all processes of a run run the same program? Asked before anything is computed.

Their configs are held to the run directory's, but for the placement, which each launch may choose anew, and their
inputs to one another (`pinned`). What is left is the placement of this launch, the packages that programs are made by
and run with, and this package's own files: a host with others compiles another program, and waits in its collectives
for ever or computes something else in silence.
"""

import hashlib
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxalign.config.installed import installed
from jaxalign.config.resolved import difference, plain
from jaxalign.errors import ConfigError
from jaxalign.hosts.group import Hosts
from jaxalign.storage.inputs import listed

PACKAGES = (
    *("jaxalign", "jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint", "numpy", "ml_dtypes"),
    *("jinja2", "tokenizers"),
)


def check_alike(hosts: Hosts, placement: Any) -> None:
    """Raises ConfigError, the same on every process, that names what differs between the processes of a run, by host.
    To be called by all of them; one alone has nobody to differ from."""
    if hosts.count == 1:
        return
    here = {"placement": plain("placement", placement), "versions": installed(PACKAGES), "jaxalign's files": digest()}
    told: list[list[Any]] = hosts.each([socket.gethostname(), here])
    names = [f"on {name} (process {index})" for index, (name, _) in enumerate(told)]
    first: Mapping[str, Any] = told[0][1]
    lines = [
        line
        for name, (_, other) in zip(names[1:], told[1:], strict=True)
        for line in difference(first, other, where=(names[0], name))
    ]
    if lines:
        raise ConfigError(
            f"the processes of this run do not run the same program; start all of them alike{listed(lines)}"
        )


def digest(root: Path = Path(__file__).parents[1]) -> str:
    """SHA-256 of the names and bytes of a package's files, but for what Python has made of them."""
    found = hashlib.sha256()
    for file in sorted(root.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            for part in (file.relative_to(root).as_posix().encode(), file.read_bytes()):
                found.update(len(part).to_bytes(8, "big") + part)
    return found.hexdigest()[:12]
