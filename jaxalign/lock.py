"""One live run a directory: a lock that names its holder and dies with it."""

import contextlib
import datetime
import errno
import json
import os
import socket
import time
from typing import Any

from etils import epath

from jaxalign.durable import is_local
from jaxalign.errors import CheckpointError

try:
    import fcntl
except ImportError:  # not POSIX
    fcntl = None  # type: ignore[assignment]

_UNSUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class RunLock:
    """Holds `path` from construction until `release`. Raises CheckpointError naming a live holder.

    On POSIX the kernel holds the lock (flock), so it ends with the process however that ends. Elsewhere the file's
    words decide: a holder on this machine that is no longer alive is replaced; one on another machine is believed.
    """

    def __init__(self, path: epath.Path):
        self._path = path
        self._handle: int | None = None
        if fcntl is not None and is_local(path):
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._handle = handle
            except OSError as error:
                os.close(handle)
                if error.errno not in _UNSUPPORTED:
                    raise CheckpointError(self._refusal(self._patient_holder())) from error
        if self._handle is None:
            holder = _holder(path)
            if holder is not None and _may_live(holder):
                raise CheckpointError(self._refusal(holder) + f"; if that process is gone, delete {path}")
        self._write(json.dumps(_self()))

    def release(self) -> None:
        """Lets go; to be called once."""
        if self._handle is None:
            self._path.unlink(missing_ok=True)
            return
        self._write("")
        os.close(self._handle)

    def _write(self, text: str) -> None:
        if self._handle is None:
            self._path.write_text(text)
            return
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, text.encode(), 0)

    def _patient_holder(self) -> dict[str, Any] | None:
        """The holder's words; it may have taken the lock a moment ago and not yet written them."""
        for _ in range(10):
            holder = _holder(self._path)
            if holder is not None:
                return holder
            time.sleep(0.02)
        return None

    def _refusal(self, holder: dict[str, Any] | None) -> str:
        if holder is None:
            who = "another process"
        elif _may_live(holder):
            who = f"process {holder['pid']} on {holder['host']}, started {holder['started']}"
        else:
            who = f"a child that outlived process {holder['pid']} on {holder['host']}"
        return f"{self._path.parent}: this run directory is in use by {who}"


def _self() -> dict[str, Any]:
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": started, "boot": _boot_id()}


def _holder(path: epath.Path) -> dict[str, Any] | None:
    try:
        holder = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return holder if isinstance(holder, dict) and holder.keys() >= {"host", "pid", "started", "boot"} else None


def _may_live(holder: dict[str, Any]) -> bool:
    if holder["host"] != socket.gethostname():
        return True
    if holder["boot"] != _boot_id():
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _boot_id() -> str:
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()
    return ""
