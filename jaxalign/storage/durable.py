"""Files that outlive a crash, and what is said when the disk refuses.

On a local file system files and directories are synced; an object store puts a file whole and needs none of it.
"""

import contextlib
import errno
import os
import pathlib
import shutil
import tempfile
import typing
from collections.abc import Iterator

from etils import epath

from jaxalign.errors import CheckpointError, ConfigError, first_line
from jaxalign.storage import bucket


def absolute(path: str | os.PathLike[str]) -> epath.Path:
    """The path, independent of the working directory from now on (Orbax takes no other). Raises ConfigError for one in
    a bucket that cannot be reached from here."""
    place = epath.Path(path)
    if is_local(place):
        return epath.Path(os.path.abspath(place))
    bucket.reach(place)
    return place


def refuse_bucket(path: str | os.PathLike[str]) -> None:
    """Raises ConfigError for a path in a bucket, where files are to be read or drawn beside one another."""
    if "://" in os.fspath(path):
        raise ConfigError(
            f"{path}: lies in a bucket; copy it here first (gcloud storage cp --recursive) and name the copy"
        )


def is_local(path: epath.Path) -> bool:
    """Whether the path is on a mounted file system rather than in a bucket."""
    return "://" not in os.fspath(path)


def beside(path: epath.Path, name: str) -> pathlib.Path:
    """Where what can be made again is kept: in the directory at `path`, or on the host's own disk for a bucket."""
    return pathlib.Path(path) / name if is_local(path) else pathlib.Path(tempfile.gettempdir()) / f"jaxalign-{name}"


def kvstore(path: epath.Path) -> dict[str, str] | str:
    """Where TensorStore finds a directory: a URL as it is, anything else on the local disk."""
    directory = f"{os.fspath(path)}/"
    return {"driver": "file", "path": directory} if is_local(path) else directory


def write_file(path: epath.Path, content: bytes) -> None:
    """Writes and syncs one file, whole or not at all."""
    if not is_local(path):
        try:
            path.write_bytes(content)
        except Exception as error:  # the bucket's own libraries raise a dozen kinds
            raise bucket.as_os_error(error, path) from error
        return
    draft = path.with_name(f".{path.name}.draft")
    try:
        with open(draft, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # before it gets its name, which could else outlive a power loss without content
        os.replace(draft, path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def make_directory(path: epath.Path) -> None:
    """Creates the directory and its parents, durably."""
    if not is_local(path):
        return  # objects need none
    missing = [parent for parent in (path, *path.parents) if not parent.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for directory in missing:
        sync_directory(directory.parent)


def names(path: epath.Path) -> list[str]:
    """What lies in a directory; nothing where there is none. The listing of a bucket may come behind what was written:
    who must know asks for it by its name."""
    try:
        return [entry.name for entry in path.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def sync_directory(path: epath.Path) -> None:
    """Makes the names inside a local directory durable."""
    if is_local(path):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def storage_errors(path: epath.Path, needed: int) -> Iterator[None]:
    """Turns the operating system's refusals into CheckpointError; `needed` is in bytes."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and not bucket.is_of_bucket(error):
            raise
        raise CheckpointError(f"{path}: cannot be written: {refusal(error, path, needed)}") from error


def refusal(error: BaseException, path: epath.Path, needed: int) -> str:
    """Why a write failed, in words; on a full disk with the bytes needed and free."""
    chain, link = [], typing.cast("BaseException | None", error)
    while link is not None:
        chain.append(link)
        link = link.__cause__ or link.__context__
    texts = " ".join(str(item) for item in chain)
    full = any(isinstance(item, OSError) and item.errno in (errno.ENOSPC, errno.EDQUOT) for item in chain)
    if full or "No space left" in texts:
        return f"no space left on the disk: {needed / 1e6:,.1f} MB needed, {_free(path)}; make room and run again"
    first = first_line(error)
    return first if isinstance(error, OSError) else f"{type(error).__name__}: {first}"


def _free(path: epath.Path) -> str:
    for place in (path, *path.parents):
        with contextlib.suppress(OSError):
            return f"{shutil.disk_usage(place).free / 1e6:,.1f} MB free"
    return "free space unknown"
