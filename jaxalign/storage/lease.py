"""One live run a directory in a bucket: a lease that its holder renews, and that nobody takes from who renews it.

The words of the holder are one object, which is written only over the generation that its writer has read. A holder
that has said nothing new for `LEASE` seconds, watched by who wants the run, is replaced; one that could not renew for
so long stops writing, and so does one that finds another's words. Each measures time by itself: a watcher begins to
count after the last words were written, so the holder's own count is never behind. No clocks are compared.
"""

import contextlib
import json
import sys
import threading
import time
from typing import Any

from etils import epath

from jaxalign.errors import CheckpointError
from jaxalign.storage import bucket
from jaxalign.storage.lock import BEAT, LEASE, may_live, myself, parsed, who


class Lease:
    """Holds `path` from construction until `release`. Raises CheckpointError naming a live holder."""

    def __init__(self, path: epath.Path):
        self._path = path
        self._turn = threading.Lock()
        content, generation = bucket.read(path)
        holder = parsed(content)
        if holder is not None and may_live(holder):
            content, generation = self._outlived(holder, content, generation)
        self._words = {**myself(), "beats": 0}
        words = json.dumps(self._words).encode()
        began = time.monotonic()
        taken = bucket.write_over(path, words, generation)
        if taken is None:  # two found it free at once
            raise CheckpointError(self._refusal(parsed(bucket.read(path)[0])))
        self._generation, self._since, self._taken_over = taken, began, False
        self._released = threading.Event()
        self._renewal = threading.Thread(target=self._renew, daemon=True)
        self._renewal.start()

    @property
    def lost(self) -> str:
        """Why this process must not write any more; empty while it may."""
        if self._taken_over:
            holder = None
            with contextlib.suppress(Exception):  # who it is is for people; that it is another is known
                holder = parsed(bucket.read(self._path)[0])
            return self._refusal(holder)
        silent = time.monotonic() - self._since
        if silent >= LEASE:
            return (
                f"{self._path.parent}: the bucket has taken no sign of life for {silent:.0f} s: another may go on here"
            )
        return ""

    def release(self) -> None:
        """Lets go; to be called once. Words without a holder say so: who deletes an object may delete another's."""
        self._released.set()
        self._renewal.join()
        with self._turn, contextlib.suppress(Exception):  # who comes next waits for a lease that is not renewed
            bucket.write_over(self._path, b"{}", self._generation)

    def beat(self) -> bool:
        """One sign of life. False: the words are another's, and are left to it."""
        words = {**self._words, "beats": self._words["beats"] + 1}
        content, began = json.dumps(words).encode(), time.monotonic()
        with self._turn:
            try:
                taken = bucket.write_over(self._path, content, self._generation)
            except Exception:  # a bucket that does not answer now may answer the next time
                return True
            if taken is None:
                self._taken_over = True
                return False
            self._words, self._generation, self._since = words, taken, began
        return True

    def _renew(self) -> None:
        while not self._released.wait(BEAT) and self.beat():
            pass

    def _outlived(self, holder: dict[str, Any], content: bytes, generation: str) -> tuple[bytes, str]:
        """What is there once the holder is known to be gone: it said nothing for `LEASE` seconds, or let go."""
        print(
            f"{self._refusal(holder)}: waiting up to {LEASE:.0f} s to see whether it lives", file=sys.stderr, flush=True
        )
        until = time.monotonic() + LEASE
        while time.monotonic() < until:
            time.sleep(min(5.0, LEASE / 10))
            found, now = bucket.read(self._path)
            if parsed(found) is None:
                return found, now
            if now != generation:
                raise CheckpointError(self._refusal(parsed(found)))
        return content, generation

    def _refusal(self, holder: dict[str, Any] | None) -> str:
        return f"{self._path.parent}: this run directory is in use by {who(holder)}"
