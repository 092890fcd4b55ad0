"""Kills runs at random moments, with SIGKILL, until so many kills are met: `python kills.py COUNT SEED`.

Three of four kills are before a random operation of Python on files, the others after a random time. The same command
goes on each time. A line of JSON for each run that got to its end, with the number of its kills.
"""

import json
import os
import pathlib
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
if __name__ == "__main__":
    import made_process  # noqa: F401  settings of JAX

import made_runs
from made_kills import killed_until_done, launched

import jaxalign.align  # noqa: F401  what each launch would import


def trials(count: int, seed: int, home: pathlib.Path) -> Iterator[dict[str, object]]:
    """Runs, until `count` kills are met in all. This process never asks JAX for a device: forks need its locks free."""
    whole, log = home / "whole", home / "log"
    code = launched(whole, log, None, None)
    assert code == 0, log.read_text()
    kills, number = 0, seed
    while kills < count:
        run = home / "run"
        met = killed_until_done(run, log, random.Random(number), count - kills)
        kills += met
        yield {"trial": str(number), "kills": met, "outcome": compared(whole, run, log)}
        shutil.rmtree(run)
        number += 1


def compared(whole: pathlib.Path, run: pathlib.Path, log: pathlib.Path) -> str:
    """`equal`, or what differs; in a process of its own, which may ask JAX for devices."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            made_runs.assert_same_run(whole, run)
            code = 0
        except BaseException as error:
            log.write_text(f"{type(error).__name__}: {error}")
        finally:
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return "equal" if status == 0 else f"FAULT: {log.read_text()[:1000]}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=os.environ.get("CHAOS_DIR")) as directory:
        for told in trials(int(sys.argv[1]), int(sys.argv[2]), pathlib.Path(directory)):
            print(json.dumps(told), flush=True)
