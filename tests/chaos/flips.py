"""Flips bits of files of runs, finished and half-finished, one a trial: `python flips.py COUNT SEED`.

Files are drawn by kind, so that a kind of few bytes is met as often as one of many; in a file half of the bits are
drawn from all, half from the first and last 64 bytes, where headers and ends of formats lie. A line of JSON a trial.
"""

import collections
import json
import os
import pathlib
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
if __name__ == "__main__":
    import made_process  # noqa: F401  settings of JAX

from made_trials import Trial, Whole, halves, readers

EDGE = 64


def kinds(run: pathlib.Path) -> dict[str, list[pathlib.Path]]:
    """Files by kind: their path without numbers and hashes."""
    found = collections.defaultdict(list)
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if path.is_file() and path.stat().st_size and not name.startswith("datasets"):
            found[re.sub(r"[0-9a-f]{32}|\d{4,}", "#", name)].append(path)
    return found


def flip(path: pathlib.Path, dice: random.Random) -> str:
    """Flips one bit; says where."""
    raw = bytearray(path.read_bytes())
    at = dice.randrange(len(raw))
    if dice.random() < 0.5:
        near = dice.randrange(min(EDGE, len(raw)))
        at = near if dice.random() < 0.5 else len(raw) - 1 - near
    bit = dice.randrange(8)
    raw[at] ^= 1 << bit
    path.write_bytes(bytes(raw))
    return f"byte {at} of {len(raw)}, bit {bit}"


def trials(count: int, seed: int, home: pathlib.Path) -> Iterator[dict[str, str]]:
    """So many trials, each by its own seed; every other one of a finished run."""
    whole = Whole(home)
    half = halves(whole, home, 6)
    for number in range(seed, seed + count):
        dice = random.Random(number)
        source = whole.path if number % 2 else dice.choice(half)
        run = home / "run"
        shutil.copytree(source, run)
        by_kind = kinds(run)
        kind = dice.choice(sorted(by_kind))
        path = dice.choice(by_kind[kind])
        where = flip(path, dice)
        try:
            readers(run)
            outcome = Trial(whole, run, str(path.relative_to(run))).outcome()
        except Exception as error:  # a reader's that is no JaxalignError
            outcome = f"FAULT: a reader: {type(error).__name__}: {error}"
        yield {"trial": str(number), "of": source.name, "kind": kind, "where": where, "outcome": outcome}
        shutil.rmtree(run)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=os.environ.get("CHAOS_DIR")) as directory:
        for told in trials(int(sys.argv[1]), int(sys.argv[2]), pathlib.Path(directory)):
            print(json.dumps(told), flush=True)
