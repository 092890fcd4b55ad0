"""Local checkpoints of two real processes: one that has lost its own gets its shards from the other.

`make test-multiprocess`.
"""

import pathlib
import re
import shutil
import signal

import pytest
from made_processes import BRIEF, MESH, Launch, assert_same_trajectory, finish
from made_runs import CONFIGS

from jaxalign.storage.local import name_of
from jaxalign.storage.record import read_metrics

pytestmark = [pytest.mark.multiprocess, pytest.mark.timeout(600)]

CONFIG = CONFIGS / "tiny_lm.py"
SMALL = (*BRIEF, "--fit.checkpoint_every", "100")
SPLIT = ("--placement.mesh.data", "1", "--placement.mesh.fsdp", "8")
"""Half of them are here and half are there."""


def local(home: pathlib.Path) -> tuple[str, ...]:
    where = str(home / "host-{process}")
    return ("--placement.local_checkpoints", where, "--placement.local_checkpoint_every", "2")


def killed(home: pathlib.Path, cache: pathlib.Path, mesh: tuple[str, ...]) -> pathlib.Path:
    """A run whose two processes were killed behind their local checkpoints of step 4."""
    workdir = home / "run"
    with Launch(CONFIG, workdir, cache, 2, *SMALL, *mesh, *local(home)) as launch:
        launch.wait_while(lambda: len(list(home.glob("host-*/*/*/00000004/commit.json"))) < 2)
        for process in launch.processes:
            process.send_signal(signal.SIGKILL)
    assert not [path for path in (workdir / "0000" / "fit").iterdir() if path.name.isdecimal()]
    return workdir


@pytest.fixture(scope="module")
def whole(tmp_path_factory, cache):
    workdir = tmp_path_factory.mktemp("whole") / "run"
    finish(CONFIG, workdir, cache, 2, *SMALL, *MESH)
    return workdir


@pytest.fixture(scope="module")
def cut(tmp_path_factory, cache):
    home = tmp_path_factory.mktemp("cut")
    killed(home, cache, MESH)
    return home


@pytest.mark.parametrize("lost", [None, 0, 1])
def test_a_run_goes_on_from_what_its_hosts_have_together(cut, whole, cache, tmp_path, lost):
    home = tmp_path / "home"
    shutil.copytree(cut, home)
    if lost is not None:
        shutil.rmtree(home / f"host-{lost}")
    for host in home.glob("host-*"):  # the copy lies elsewhere, and hosts know a run by its path
        (host / name_of(cut / "run")).rename(host / name_of(home / "run"))
    launch = finish(CONFIG, home / "run", cache, 2, *SMALL, *MESH, *local(home))
    said = re.search(r"goes on from the hosts' own checkpoints after step (\d+)(.*)", launch.said(0))
    assert said, launch.everything()
    assert int(said[1]) >= 4
    assert said[2] == ("" if lost is None else f"; processes [{lost}] had none and got their shards from others")
    assert read_metrics(home / "run") == read_metrics(whole)
    assert_same_trajectory(home / "run", whole)
    assert not list(home.glob("host-*/*")), "the policy is committed"


def test_a_shard_that_nobody_has_any_more_begins_the_fit_again(cache, tmp_path):
    workdir = killed(tmp_path, cache, SPLIT)
    shutil.rmtree(tmp_path / "host-1")
    launch = finish(CONFIG, workdir, cache, 2, *SMALL, *SPLIT, *local(tmp_path))
    assert "goes on" not in launch.said(0)
    assert [line["step"] for line in read_metrics(workdir) if line["phase"] == "fit"] == list(range(8))


def test_two_processes_of_a_host_need_directories_of_their_own(cache, tmp_path):
    with Launch(
        CONFIG, tmp_path / "run", cache, 2, *SMALL, *MESH, "--placement.local_checkpoints", str(tmp_path / "one")
    ) as launch:
        assert launch.codes() == [2, 2], launch.everything()
    assert "two processes of" in launch.said(0)
    assert "{process} in it stands for the number of each" in launch.said(0)
