"""A side of a benchmark in a process of its own: with a limit, and with the Python that has what it needs."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_LOOK = "import importlib.util as u, sys; print(*(name for name in sys.argv[1:] if u.find_spec(name) is None))"


def here(script: str) -> Path:
    """A script for another Python, which does not know this package."""
    return Path(__file__).with_name(script)


def missing(python: str, modules: Sequence[str]) -> str:
    """Why `python` cannot import `modules`, which it does not try; empty where all are there."""
    try:
        asked = subprocess.run([python, "-c", _LOOK, *modules], capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        return f"{python} is no Python: {error}"
    absent = asked.stdout.split()
    return f"{', '.join(absent)} not installed in {python}" if absent else ""


def told(
    command: Sequence[str], seconds: float, environment: Mapping[str, str] | None = None, whole: bool = False
) -> Any:
    """The JSON that `command` prints as its last line, or of which all that it prints consists (`whole`: that counts
    whatever its exit code is, for a benchmark shows what it has measured before it fails for one of its sides);
    {"skipped": why, "failed": True} where it fails, or where it has not ended after so many seconds, when it is killed
    with all that it has started."""
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
        start_new_session=True,  # what it starts is in its group, and the group can be killed
    ) as process:
        try:
            out, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            _kill(process)
            return _failed(f"has not ended after {seconds:.0f} s")
        except BaseException:
            _kill(process)
            raise
    succeeded = process.returncode == 0
    if whole or succeeded:
        with contextlib.suppress(IndexError, json.JSONDecodeError):
            return json.loads(out if whole else out.strip().splitlines()[-1])
    if succeeded:
        return _failed("ended without an answer")
    last = (errors.strip() or out.strip()).splitlines()[-1:] or [""]
    return _failed(f"ended with {process.returncode}: {last[0][:200]}")


def _failed(why: str) -> dict[str, Any]:
    return {"skipped": why, "failed": True}


def _kill(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
