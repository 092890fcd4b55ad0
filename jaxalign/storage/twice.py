"""Small files that a run cannot do without, kept twice: beside `name` lies `.name.copy`, which begins with its SHA-256.

One flipped bit in either file is then found, and the other one read: where the copy's sum fits it is what was written
last, as it is written first. On object stores, which keep checksums of their own, there is the file alone; so it is in
runs of earlier versions.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable

from etils import epath

from jaxalign.storage import canonical, durable


def write(path: epath.Path, content: bytes) -> None:
    """Writes both, each whole or not at all. Raises OSError."""
    if durable.is_local(path):
        durable.write_file(copy_of(path), _summed(content))
    durable.write_file(path, content)


def read(path: epath.Path, mend: bool = False, check: Callable[[bytes], object] = json.loads) -> bytes:
    """What was written last. Raises OSError where there is none, as of `path`.

    stderr is told where `path` holds something else; with `mend` it is written anew, and so is a copy that is damaged,
    unless `check` raises ValueError for what `path` holds: then both are, and what is put back is to count.
    """
    copy = _copied(path)
    if copy is None:
        found = path.read_bytes()
        if mend and durable.is_local(path) and copy_of(path).exists():
            with contextlib.suppress(ValueError):
                check(found)
                durable.write_file(copy_of(path), _summed(found))  # the copy is what is damaged
        return found
    found = path.read_bytes() if path.exists() else None
    if found != copy:
        done = "written anew from" if mend else "read from"
        print(f"{path}: {'gone' if found is None else 'damaged'}; {done} its copy", file=sys.stderr, flush=True)
        if mend:
            durable.write_file(path, copy)
    return copy


def there(path: epath.Path) -> bool:
    """Whether `read` would find something."""
    return path.exists() or _copied(path) is not None


def delete(path: epath.Path) -> None:
    """Deletes both, where they are."""
    copy_of(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def copy_of(path: epath.Path) -> epath.Path:
    """Where the second one lies."""
    return path.with_name(f".{os.path.basename(path)}.copy")


def _summed(content: bytes) -> bytes:
    return canonical.sha256(content).encode() + b"\n" + content


def _copied(path: epath.Path) -> bytes | None:
    """The content of the copy; None where there is none or it is damaged."""
    if not durable.is_local(path):
        return None
    try:
        sum_, _, content = copy_of(path).read_bytes().partition(b"\n")
    except OSError:
        return None
    return content if canonical.sha256(content).encode() == sum_ else None
