"""Two real processes of four CPU devices each, on one machine: what they commit is what one process of eight does.

`make test-multiprocess`. A run of one iteration is made by one process and by two. The tests of what goes wrong
continue copies of the second one, cut back to where its fit begins.
"""

import json
import pathlib
import re
import shutil
import signal
import socket

import jax
import numpy as np
import pytest
from made_processes import BRIEF, MESH, OTHER_MESH, PATIENCE, Launch, assert_same_trajectory, files, finish
from made_runs import CONFIGS, policy
from safetensors.numpy import load_file

from jaxalign.__main__ import main
from jaxalign.hosts.watch import ProcessLost
from jaxalign.storage.artifact import MARKER
from jaxalign.storage.record import read_metrics
from jaxalign.storage.rundir import read_run

pytestmark = [pytest.mark.multiprocess, pytest.mark.timeout(600)]

CONFIG = CONFIGS / "tiny_lm.py"
SMALL = (*BRIEF, "--fit.checkpoint_every", "2")
STEPS = 8


@pytest.fixture(scope="module")
def one(tmp_path_factory, cache):
    workdir = tmp_path_factory.mktemp("one") / "run"
    finish(CONFIG, workdir, cache, 1, *SMALL, *MESH)
    return workdir


@pytest.fixture(scope="module")
def two(tmp_path_factory, cache):
    workdir = tmp_path_factory.mktemp("two") / "run"
    return workdir, finish(CONFIG, workdir, cache, 2, *SMALL, *MESH)


def cut(whole: pathlib.Path, to: pathlib.Path) -> pathlib.Path:
    """A copy of a finished run, as it was when its fit began."""
    shutil.copytree(whole, to)
    for name in ("policy", "heldout", "evals"):
        shutil.rmtree(to / "0000" / name)
    (to / "summary.json").unlink()
    lines = (to / "metrics.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if not re.match(r'{"iteration": 0, "phase": "(fit|evals)"', line)]
    assert len(kept) == len(lines) - STEPS - 1
    (to / "metrics.jsonl").write_text("".join(kept))
    return to


def phases(workdir: pathlib.Path) -> set[str]:
    """What is committed of all phases."""
    return {str(mark.parent.relative_to(workdir)) for mark in workdir.glob(f"*/*/{MARKER}")}


# --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["initial/heldout", "0000/rollouts", "0000/preferences", "0000/groups"])
def test_two_processes_commit_the_bytes_of_one(one, two, phase):
    assert files(one, f"{phase}/*") == files(two[0], f"{phase}/*")


def test_the_policy_trained_by_two_says_the_same(one, two):
    """It differs by rounding, and so do the recorded log-probs of its answers."""
    assert files(one, "0000/heldout/content.json") == files(two[0], "0000/heldout/content.json")


def test_two_processes_train_as_one(one, two):
    assert_same_trajectory(one, two[0])


def test_one_process_exports_the_run_of_two(one, two, tmp_path):
    """The base to the byte; what was trained differs as the policies do."""
    tensors = {}
    for name, run in (("one", one), ("two", two[0])):
        for which in ("base", "last"):
            assert not main(["export", str(run), str(tmp_path / name / which), "--policy", which])
        tensors[name] = load_file(tmp_path / name / "last" / "model.safetensors")
    assert files(tmp_path / "one", "base/*") == files(tmp_path / "two", "base/*")
    assert tensors["one"].keys() == tensors["two"].keys()
    for name, values in tensors["one"].items():
        np.testing.assert_allclose(values, tensors["two"][name], atol=1e-4)  # as above


def test_only_process_0_writes_and_speaks(two):
    workdir, launch = two
    places = [(line["iteration"], line["phase"], line["step"]) for line in read_metrics(workdir)]
    assert len(places) == len(set(places)) == 1 + 3 + STEPS
    perf = [json.loads(line) for line in (workdir / "perf.jsonl").read_text().splitlines()]
    assert [line["step"] for line in perf if line["phase"] == "fit"] == list(range(STEPS))
    assert "Win rates" in launch.said(0)
    assert not re.search("jaxalign|iteration|policy|heldout", launch.said(1))  # Gloo's own lines it cannot help
    assert not list(workdir.glob("*/*.parts"))


@pytest.fixture(scope="module")
def lost(two, cache, tmp_path_factory):
    """A run of which process 1 fell silent in mid-fit, as if its host had lost its power, and its launch.

    Where it is killed, connections break, and Gloo, if that meets it amid a message, aborts process 0 unheard.
    """
    workdir = cut(two[0], tmp_path_factory.mktemp("lost") / "run")
    with Launch(CONFIG, workdir, cache, 2, *SMALL, *MESH) as launch:
        launch.wait_for(workdir / "0000" / "fit" / "00000002")
        launch.processes[1].send_signal(signal.SIGSTOP)
        code = launch.processes[0].wait(PATIENCE + 60)
    return workdir, code, launch


def test_a_process_that_falls_silent_ends_the_other_with_a_message(lost):
    workdir, code, launch = lost
    assert code == ProcessLost.exit_code, launch.everything()
    assert "process 1 of 2 has not been heard of" in launch.said(0)
    assert not (workdir / "0000" / "policy").exists()


@pytest.mark.parametrize("mesh", [MESH, OTHER_MESH], ids=["eight devices", "another mesh"])
def test_one_process_continues_the_run_of_two(lost, two, cache, tmp_path, mesh):
    workdir = tmp_path / "run"
    shutil.copytree(lost[0], workdir)
    finish(CONFIG, workdir, cache, 1, *SMALL, *mesh)
    assert_same_trajectory(two[0], workdir)


def test_a_killed_process_ends_the_other_and_the_same_command_continues(two, cache, tmp_path):
    """The survivor ends by the silence, or by Gloo when a connection breaks amid a message, unheard. Either way what is
    there is what there was, and checkpoints that are whole."""
    workdir = cut(two[0], tmp_path / "run")
    committed = phases(workdir)
    with Launch(CONFIG, workdir, cache, 2, *SMALL, *MESH) as launch:
        launch.wait_for(workdir / "0000" / "fit" / "00000002")
        launch.processes[1].kill()
        codes = launch.codes(PATIENCE + 60)
    assert codes[1] == -signal.SIGKILL
    assert codes[0] in (ProcessLost.exit_code, -signal.SIGABRT), launch.everything()
    assert phases(workdir) == committed
    assert read_run(workdir).policies() == [0]
    assert (two[0] / "metrics.jsonl").read_bytes().startswith((workdir / "metrics.jsonl").read_bytes())
    finish(CONFIG, workdir, cache, 2, *SMALL, *MESH)
    assert files(workdir, "metrics.jsonl") == files(two[0], "metrics.jsonl")
    for phase in ("heldout", "evals"):
        assert files(workdir, f"0000/{phase}/*") == files(two[0], f"0000/{phase}/*")
    for ours, theirs in zip(*(jax.tree.leaves(policy(run, 1)) for run in (workdir, two[0])), strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


def test_the_death_of_process_0_ends_the_others(two, cache, tmp_path):
    workdir = cut(two[0], tmp_path / "run")
    with Launch(CONFIG, workdir, cache, 2, *SMALL, *MESH) as launch:
        launch.wait_for(workdir / "0000" / "fit" / "00000002")
        launch.processes[0].kill()
        codes = launch.codes(PATIENCE + 60)
    assert codes[0] == -signal.SIGKILL
    assert codes[1] != 0
    # JAX's own words: the service that could have told is gone with process 0.
    assert "leader task was preempted/died" in launch.said(1), launch.everything()


def test_a_stop_asked_of_one_stops_both_at_one_step_and_the_same_command_continues(two, cache, tmp_path):
    workdir = cut(two[0], tmp_path / "run")
    with Launch(CONFIG, workdir, cache, 2, *SMALL, *MESH) as launch:
        launch.wait_for(workdir / "0000" / "fit" / "00000002")
        launch.processes[1].send_signal(signal.SIGTERM)
        assert launch.codes() == [75, 75], launch.everything()
    stops = [re.search(rf"stopped after step (\d+) of {STEPS}", launch.said(index)) for index in (0, 1)]
    assert all(stops), launch.everything()
    assert stops[0][1] == stops[1][1]
    assert (workdir / "0000" / "fit" / f"{int(stops[0][1]):08d}").exists()
    finish(CONFIG, workdir, cache, 2, *SMALL, *MESH)
    assert files(workdir, "metrics.jsonl") == files(two[0], "metrics.jsonl")
    for phase in ("heldout", "evals"):
        assert files(workdir, f"0000/{phase}/*") == files(two[0], f"0000/{phase}/*")


def test_an_error_on_one_process_ends_both_and_names_it(two, cache, tmp_path):
    workdir = cut(two[0], tmp_path / "run")
    with Launch(CONFIG, workdir, cache, 2, *SMALL, *MESH, each=((), ("--loss.eta", "0.4"))) as launch:
        assert launch.codes(120) == [2, 2], launch.everything()
    for index in (0, 1):
        assert "process 1 of 2" in launch.said(index)
        assert "loss.eta: 0.2 in the run, 0.4 now" in launch.said(index)
        assert "Traceback" not in launch.said(index)


def test_processes_that_wait_in_vain_say_for_whom(cache, tmp_path):
    alone = ("--processes", "3", "--join-timeout", "5")
    with (
        Launch(
            CONFIG, tmp_path / "first", cache, 1, *SMALL, "--coordinator", "127.0.0.1:1", "--process-id", "1", *alone
        ) as second,
        socket.socket() as free,
    ):
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        free.close()
        with Launch(
            CONFIG, tmp_path / "second", cache, 1, *SMALL, "--coordinator", address, "--process-id", "0", *alone
        ) as first:
            assert (first.codes(90), second.codes(90)) == ([ProcessLost.exit_code],) * 2
    assert f"not all of the 3 processes came to {address}" in first.said(0)
    assert "nothing answers at 127.0.0.1:1" in second.said(0)
    assert "stack trace" not in first.said(0) + second.said(0)
