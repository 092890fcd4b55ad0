"""Long sweeps of what may happen to a run: kills, flipped bits, disks that fail. `make test-chaos`.

How many trials is for the environment to say: CHAOS_KILLS (SIGKILLs of a run of one process, 20), CHAOS_PAIRS (of a run
of two processes, 4), CHAOS_FLIPS (bits, 200), CHAOS_SAVES (failing operations of single saves, all), CHAOS_FAULTS
(failing operations of whole runs, 60), CHAOS_SEED (the first trial's seed, 0). Every trial is a line of JSON on stdout.
"""

import collections
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from made_faults import compiled
from made_processes import MESH, Launch, files, finish
from made_runs import CONFIGS, SMALL, assert_same_run

HERE = pathlib.Path(__file__).parent
SEED = int(os.environ.get("CHAOS_SEED", "0"))
ALL = 1_000_000

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(0)]


def wanted(name: str, usual: int) -> int:
    return int(os.environ.get(f"CHAOS_{name}", usual))


def trials(script: str, *arguments: object, **environment: str) -> Iterator[dict[str, object]]:
    """The lines of a sweep in a process of its own, as they come; its exit code is checked behind the last one."""
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            yield json.loads(line)
    assert process.returncode == 0


def assert_right(found: list[dict[str, object]], least: int) -> None:
    """No trial ended in a fault, and there were enough of them."""
    print(collections.Counter(str(trial["outcome"])[:6] for trial in found))
    assert [trial for trial in found if str(trial["outcome"]).startswith("FAULT")] == []
    assert len(found) >= least


@pytest.fixture(scope="module")
def preloaded(tmp_path_factory) -> dict[str, str]:
    library = compiled(tmp_path_factory.mktemp("disk"))
    if library is None:
        pytest.skip("no C compiler")
    return {"LD_PRELOAD": str(library)}


def test_a_run_killed_at_random_moments_ends_with_the_same_bits():
    count = wanted("KILLS", 20)
    found = list(trials("kills.py", count, SEED))
    assert_right(found, 1)
    assert sum(int(str(trial["kills"])) for trial in found) == count


def test_a_flipped_bit_is_found_and_mended_or_changes_nothing():
    count = wanted("FLIPS", 200)
    assert_right(list(trials("flips.py", count, SEED)), count)


def test_a_save_that_fails_anywhere_leaves_the_state_before_it_or_behind_it(preloaded):
    assert_right(list(trials("faults.py", "saves", wanted("SAVES", ALL), **preloaded)), min(500, wanted("SAVES", ALL)))


def test_a_run_whose_disk_fails_anywhere_goes_on_and_ends_with_the_same_bits(preloaded):
    count = wanted("FAULTS", 60)
    assert_right(list(trials("faults.py", "runs", count, SEED, **preloaded)), count)


# --------------------------------------------------------------------------------------------------------------
# Two processes

TWO = (*SMALL[:-2], *MESH)
"""Of `tiny_lm`, without its mesh of one device."""


def test_two_processes_of_which_one_is_killed_at_random_moments_end_with_the_same_bits(tmp_path):
    cache, config, count = tmp_path / "cache", CONFIGS / "tiny_lm.py", wanted("PAIRS", 4)
    finish(config, tmp_path / "whole", cache, 2, *TWO)
    kills, number = 0, SEED
    while kills < count:
        run = tmp_path / f"run-{number}"
        dice, number = random.Random(number), number + 1
        while kills < count and (met := _killed(config, run, cache, dice)):
            kills += met
        finish(config, run, cache, 2, *TWO)
        assert files(run, "metrics.jsonl") == files(tmp_path / "whole", "metrics.jsonl")
        assert_same_run(tmp_path / "whole", run)
        print(f'{{"trial": "two processes {number - 1}", "kills": {kills}, "outcome": "equal"}}', flush=True)


def _killed(config: pathlib.Path, run: pathlib.Path, cache: pathlib.Path, dice: random.Random) -> int:
    """How many of the two were killed before the run was over: one, at a random moment, or none."""
    before = sum(1 for _ in run.rglob("*"))
    with Launch(config, run, cache, 2, *TWO) as launch:
        launch.wait_while(lambda: sum(1 for _ in run.rglob("*")) < before + dice.randrange(1, 60))
        if launch.processes[0].poll() is not None:
            assert launch.codes() == [0, 0], launch.everything()
            return 0
        launch.processes[dice.randrange(2)].send_signal(signal.SIGKILL)
        launch.codes()
    return 1
