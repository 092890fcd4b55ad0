"""Runs `jaxalign ARGUMENTS…`, and kills it at one moment: SIGKILL at event number AFTER since a path appeared.

    python killed.py PATTERN AFTER ARGUMENTS…

An event is a file or directory that Python opens, makes, renames or deletes below the run directory (of audit events,
sys.audit); a path appears with the first event that names one which fits PATTERN (a glob below --workdir). The
operation of the last event does not happen. No clock decides, so the same moment is met on any machine.
"""

import fnmatch
import os
import signal
import sys
from typing import Any

from jaxalign.__main__ import main

EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link")


def arm(pattern: str, after: int, workdir: str, sign: int = signal.SIGKILL) -> None:
    """Sends this process the signal at the moment, once."""
    seen, sent = 0, False

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen, sent
        if sent or event not in EVENTS:
            return
        paths = [os.path.relpath(path, workdir) for path in arguments[:2] if isinstance(path, str | os.PathLike)]
        below = [path for path in paths if not path.startswith("..")]
        if below and (seen or any(fnmatch.fnmatch(path, pattern) for path in below)):
            seen += 1
            if seen > after:
                sent = True
                os.kill(os.getpid(), sign)

    sys.addaudithook(watch)


if __name__ == "__main__":
    pattern, after, *rest = sys.argv[1:]
    arm(pattern, int(after), os.path.abspath(rest[rest.index("--workdir") + 1]))
    sys.exit(main(rest))
