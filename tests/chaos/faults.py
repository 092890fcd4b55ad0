"""A disk that fails at an operation on files: `LD_PRELOAD=faulty_disk.so python faults.py saves COUNT [SAVE…]`.

`saves`: at every operation of every save (or of those named), once for each kind of failure (`faulty_disk.c`); COUNT is
the most trials. `runs COUNT SEED`: at a random operation of a whole run, a trial each; every other one is a death. A
line of JSON a trial.
"""

import contextlib
import itertools
import json
import os
import pathlib
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
if __name__ == "__main__":
    import made_process  # noqa: F401  settings of JAX

from made_artifacts import CONFIG, Small, same, small
from made_checkpoints import DATA, META, abstract, assert_same, params
from made_faults import KINDS, Disk
from made_runs import run_here
from made_trials import Trial, Whole, quiet, tried

from jaxalign.errors import JaxalignError
from jaxalign.storage import artifact, checkpoint, pinned, record, rundir
from jaxalign.storage.artifact import epath

SLOW = 30.0
"""Seconds; what takes longer hangs."""
DATE = pinned.datetime.date(2026, 1, 1)

# --------------------------------------------------------------------------------------------------------------
# Saves: each has a state before it, makes another one, and says which of the two it finds


def artifacts(home: pathlib.Path, value: int | None) -> int:
    """An artifact that is committed again: 3, or nothing, or 4."""
    place = epath.Path(home / "0000" / "groups")
    if value is not None:
        artifact.commit(place, "0000/groups", small(value))
    if not artifact.committed(place):
        return 0
    found = artifact.read(place, "0000/groups", Small)
    return next(n for n in (3, 4) if same(found, small(n)))


def policies(home: pathlib.Path, value: int | None) -> int:
    """A policy beside another one."""
    slots = {n: rundir.PolicySlot(epath.Path(home / f"{n}"), n) for n in (3, 4)}
    if value is not None and not slots[value].exists():
        slots[value].save(params(value), META)
    there = [n for n, slot in slots.items() if slot.exists()]
    for n in there:
        assert_same(slots[n].load(abstract(params())), params(n))
    return max(there, default=0)


def checkpoints(home: pathlib.Path, value: int | None) -> int:
    """The third checkpoint of a fit that keeps two."""
    if value is not None:
        with checkpoint.FitCheckpoints(home / "fit", 1, 2) as fit:
            for step in range(2, value + 1):
                fit.save(step, params(step), DATA, META)
    found = checkpoint.FitCheckpoints(home / "fit", 1, 2).restore(abstract(params()))
    if found is None:
        return 0
    assert_same(found.state, params(found.step))
    return found.step


def documents(home: pathlib.Path, value: int | None) -> int:
    """config.json, inputs.json and summary.json of a run, and its lock; what its last launch read and came to."""
    if value is not None:
        with rundir.open_run(home / "run", {**CONFIG, "keep_policies": value}) as run:
            run.phase(0, "groups", small, Small)
            pinned.write(run.path, pinned.Pinned(DATE, (pinned.Input("a", "b", "c", f"{value}"),), {}))
            run.write_summary({"evals": {"x": value}})
    try:
        rundir.read_run(home / "run")
        found = pinned.parsed(pinned.read(epath.Path(home / "run"))).inputs[0].fingerprint
        summary = record.read_summary(home / "run")["evals"]["x"]
    except JaxalignError:
        return 0
    return min(int(found), int(summary))


def metrics(home: pathlib.Path, value: int | None) -> int:
    """Three lines of metrics, of which the last two give way to others in one go, as when a run differs."""
    home.mkdir(exist_ok=True)
    if value is not None:
        recorder = record.Recorder(home)
        for step in range(3):
            recorder.log(0, "fit", step, {"x": float(value if step else 0)})
            recorder.perf(0, "fit", step, {"perf/seconds": 1.0})
    lines = record.read_metrics(home)
    assert [line["step"] for line in lines] == list(range(len(lines)))
    assert all(line["x"] in (0.0, 3.0, 4.0) for line in lines)
    return int(lines[-1]["x"]) if len(lines) == 3 else 0


SAVES: dict[str, Callable[[pathlib.Path, int | None], int]] = {
    each.__name__: each for each in (artifacts, policies, checkpoints, documents, metrics)
}


def saves(count: int, names: Collection[str], home: pathlib.Path, disk: Disk) -> Iterator[dict[str, Any]]:
    """Every operation of every save that is named, each kind of failure."""
    done = 0
    for name in names:
        save = SAVES[name]
        before = home / "before"
        save(before, 3)
        root = home / "run"
        shutil.copytree(before, root)
        operations = disk.counted(partial(save, root, 4))
        shutil.rmtree(root)
        for number in range(1, operations + 1):
            for kind in KINDS:
                if done == count:
                    return
                shutil.copytree(before, root)
                outcome = save_failing(save, root, disk, number, kind)
                shutil.rmtree(root)
                if not told_of(kind, disk.met):
                    continue
                done += 1
                yield {"trial": f"{name} {number}/{operations}", "kind": kind, "met": disk.met, "outcome": outcome}
        shutil.rmtree(before)


def told_of(kind: str, met: str) -> bool:
    """Whether a trial counts: something failed, and only writes can be short or torn."""
    return "write" in met.split(" ")[0] if kind in ("short", "torn") else bool(met)


def save_failing(save: Callable[..., int], root: pathlib.Path, disk: Disk, number: int, kind: str) -> str:
    """`right`: what was there before or comes after is whole, and the same save succeeds then."""
    began = time.monotonic()
    try:
        with quiet():
            disk.fails(number, kind)
            with contextlib.suppress(JaxalignError):
                save(root, 4)
            disk.mends()
            after = save(root, None)
            again = save(root, 4)
    except Exception as error:  # what is no JaxalignError is a fault
        return f"FAULT: {type(error).__name__}: {error}"
    finally:
        disk.mends()
    if after not in (0, 2, 3, 4) or (after == 0 and save is checkpoints):
        return f"FAULT: {after} was there"
    if again != 4:
        return f"FAULT: the next save left {again}"
    return "right" if time.monotonic() - began < SLOW else "FAULT: it hung"


# --------------------------------------------------------------------------------------------------------------
# Runs


def runs(count: int, seed: int, home: pathlib.Path, disk: Disk) -> Iterator[dict[str, Any]]:
    """A failure at a random operation of a run; then the same command, on a disk that has come to itself."""
    whole, run = Whole(home), home / "run"
    with quiet():
        operations = disk.counted(lambda: run_here(tried(), run))
    shutil.rmtree(run)
    kinds = [kind for other in ("eio", "enospc", "short", "torn") for kind in (other, "death")]
    done = 0
    for number in itertools.count(seed):
        if done == count:
            return
        at, kind = random.Random(number).randrange(1, operations + 1), kinds[number % len(kinds)]
        began, said = time.monotonic(), ""
        try:
            with quiet():
                disk.fails(at, kind)
                run_here(tried(), run)
        except JaxalignError as error:
            said = str(error)
        except Exception as error:  # what is no JaxalignError is a fault, unless it stands for death
            said = f"FAULT: {type(error).__name__}: {error}"
        disk.mends()
        outcome = Trial(whole, run).outcome()
        if said.startswith("FAULT") and kind not in ("death", "torn"):
            outcome = said
        if time.monotonic() - began > SLOW * 2:
            outcome = "FAULT: it hung"
        shutil.rmtree(run)
        if kind == "torn" and "write" not in disk.met.split(" ")[0]:
            kind = "death"
        if told_of(kind, disk.met):
            done += 1
            yield {"trial": str(number), "kind": kind, "met": disk.met, "said": said[:300], "outcome": outcome}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=os.environ.get("CHAOS_DIR")) as directory:
        base = pathlib.Path(directory)
        (what, number_of, *others), disk_of = sys.argv[1:], Disk(base / "run")
        if what == "saves":
            made = saves(int(number_of), others or SAVES, base, disk_of)
        else:
            made = runs(int(number_of), int(others[0]), base, disk_of)
        for told in made:
            print(json.dumps(told), flush=True)
