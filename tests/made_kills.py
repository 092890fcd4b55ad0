"""Runs that are killed: a process that has imported everything forks one for each launch, before JAX has threads."""

import os
import pathlib
import random
import signal
import time
import traceback

from killed import arm


def launched(run: pathlib.Path, log: pathlib.Path, events: int | None, seconds: float | None) -> int:
    """The exit code of a launch of the run of all trials, in a fork of this process; −9 where it was killed: before it
    has changed `events` files or directories since its first, or after so many `seconds`."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            if events is not None:
                arm("*", events, str(run))
            from made_runs import run_here
            from made_trials import tried

            run_here(tried(), run)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    if seconds is not None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_until_done(run: pathlib.Path, log: pathlib.Path, dice: random.Random, most: int) -> int:
    """Runs to the end, killed in each launch at a random moment, `most` times at most; returns how often that was."""
    for kills in range(most):
        by_event = dice.random() < 0.75
        events = dice.randrange(1, 150) if by_event else None
        seconds = None if by_event else dice.uniform(0.5, 16.0)
        code = launched(run, log, events, seconds)
        if code == 0:
            return kills
        assert code == -signal.SIGKILL, f"exit code {code}\n{log.read_text()}"
    code = launched(run, log, None, None)
    assert code == 0, f"exit code {code}\n{log.read_text()}"
    return most
