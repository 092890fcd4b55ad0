"""One live run a directory: a lock that names its holder and dies with it."""

import contextlib
import datetime
import errno
import json
import os
import socket
import sys
import threading
import time
from typing import Any

from etils import epath

from jaxalign.errors import CheckpointError
from jaxalign.storage.durable import write_file

try:
    import fcntl
except ImportError:  # not POSIX
    fcntl = None  # type: ignore[assignment]

_UNSUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)

BEAT = 20.0
"""Seconds between two signs of life of a holder that no kernel vouches for."""

LEASE = 90.0
"""Seconds without one after which such a holder is gone."""


class RunLock:
    """Holds `path` from construction until `release`. Raises CheckpointError naming a live holder.

    On POSIX the kernel holds the lock (flock), so it ends with the process however that ends. On file systems without
    it the file's words decide (in a bucket it is a `Lease`): the holder renews them while it lives. A holder on this
    machine that has died since this boot is replaced; any other is watched, and replaced when it gives no sign of life
    for `LEASE` seconds. So a pod that was preempted, and comes back under another name or the same, gets its run back.
    No clocks are compared.
    """

    def __init__(self, path: epath.Path):
        self._path = path
        self._handle: int | None = None
        if fcntl is not None:
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
            if holder is not None and may_live(holder) and self._gives_signs(holder):
                raise CheckpointError(self._refusal(holder))
        self._words = myself()
        try:
            self._write(json.dumps(self._words))
        except OSError:
            if self._handle is not None:
                os.close(self._handle)
            raise
        self._released = threading.Event()
        if self._handle is None:
            time.sleep(min(1.0, BEAT))
            if _holder(path) != self._words:  # two found it free at once: the later words count
                raise CheckpointError(self._refusal(_holder(path)))
            self._renewal = threading.Thread(target=self._renew, daemon=True)
            self._renewal.start()

    lost = ""
    """Why this process must not write any more; empty while it may. The kernel takes no lock away; where words decide
    another may have replaced a holder that was silent for too long."""

    def release(self) -> None:
        """Lets go; to be called once."""
        self._released.set()
        if self._handle is None:
            self._renewal.join()
            if self._is_own(_holder(self._path)):
                self._path.unlink(missing_ok=True)
            return
        with contextlib.suppress(OSError):  # the words are for people: the kernel's lock counts, and goes now
            self._write("")
        os.close(self._handle)

    def _write(self, text: str) -> None:
        if self._handle is None:
            write_file(self._path, text.encode())  # whole: whoever reads meanwhile must not take it for let go
            return
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, text.encode(), 0)

    def _renew(self) -> None:
        """Signs of life until the release, or until the words are another's."""
        while not self._released.wait(BEAT) and self.beat():
            pass

    def beat(self) -> bool:
        """One sign of life. False: the words are another's, and are left to it."""
        holder = _holder(self._path)
        if holder is None:  # what cannot be read now may be the next time
            return True
        if not self._is_own(holder):
            self.lost = self._refusal(holder)
            return False
        with contextlib.suppress(OSError):
            self._write(json.dumps({**self._words, "beats": holder["beats"] + 1}))
        return True

    def _is_own(self, holder: dict[str, Any] | None) -> bool:
        return holder is not None and {**holder, "beats": 0} == self._words

    def _gives_signs(self, holder: dict[str, Any]) -> bool:
        """Whether the holder renews its words within `LEASE` seconds; it may let go meanwhile."""
        print(
            f"{self._refusal(holder)}: waiting up to {LEASE:.0f} s to see whether it lives", file=sys.stderr, flush=True
        )
        until = time.monotonic() + LEASE
        while time.monotonic() < until:
            time.sleep(min(5.0, LEASE / 10))
            found = _holder(self._path)
            if found is None:
                return False
            if found != holder:
                return True
        return False

    def _patient_holder(self) -> dict[str, Any] | None:
        """The holder's words; it may have taken the lock a moment ago and not yet written them."""
        for _ in range(10):
            holder = _holder(self._path)
            if holder is not None:
                return holder
            time.sleep(0.02)
        return None

    def _refusal(self, holder: dict[str, Any] | None) -> str:
        return f"{self._path.parent}: this run directory is in use by {who(holder)}"


class LeadersLock:
    """The lock of a run of several processes as all but process 0 have it: process 0 holds it for them."""

    lost = ""

    def release(self) -> None:
        """Nothing: it is not theirs."""


def who(holder: dict[str, Any] | None) -> str:
    """Whose words they are, for people."""
    if holder is None:
        return "another process"
    if may_live(holder):
        return f"process {holder['pid']} on {holder['host']}, started {holder['started']}"
    return f"a child that outlived process {holder['pid']} on {holder['host']}"


def myself() -> dict[str, Any]:
    """The words of a holder: this process, and no sign of life yet."""
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {**_here(), "pid": os.getpid(), "started": started, "beats": 0}


def _holder(path: epath.Path) -> dict[str, Any] | None:
    try:
        return parsed(path.read_bytes())
    except OSError:
        return None


def parsed(content: bytes) -> dict[str, Any] | None:
    """The holder whose words these are; None where they are nobody's."""
    try:
        holder = json.loads(content)
    except ValueError:
        return None
    return holder if isinstance(holder, dict) and holder.keys() >= {"host", "pid", "started", "boot"} else None


def may_live(holder: dict[str, Any]) -> bool:
    """Whether a holder may be alive: a process of its number is here, or nobody here can tell. Machines of one name are
    told apart by their boots, and containers that do not see each other's processes by where these are numbered."""
    if {**holder, **_here()} != holder:
        return True
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _here() -> dict[str, str]:
    """Where numbers of processes are this process's own."""
    space = ""
    with contextlib.suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    return {"host": socket.gethostname(), "boot": boot_id(), "space": space}


def boot_id() -> str:
    """Of this machine's present boot; empty where it is not told."""
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()
    return ""
