"""A pod that is a folder: gcloud copies into it and runs there what it is told to run on a host."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest
from desk import CONFIG, POD, RUN, Desk

from jaxalign.errors import Interrupted
from jaxalign.hosts.watch import ProcessLost

TRAIN = """#!/usr/bin/env bash
echo "jaxalign $*"
echo "on $JAX_PLATFORMS" >> "$HOME/platforms"
ends=$(cat "$HOME/ends")
[[ $ends != when-asked ]] || { trap 'exit 75' TERM; while :; do sleep 0.02; done; }
exit "$ends"
"""
# Installs nothing, but leaves a Python and a jaxalign where a virtual environment has them.
PYTHON = """#!/usr/bin/env bash
printf '%s\\n' "$*" >> "$HOME/python.log"
[[ $2 != uv ]] || { mkdir -p "${@: -1}/bin"; cp "$0" "${@: -1}/bin/python"; cp "$HOME/train" "${@: -1}/bin/jaxalign"; }
"""


class Host:
    """A home directory, and host.sh in it."""

    def __init__(self, desk: Desk):
        self.desk = desk
        self.home = desk.root.parent / "host"
        self.home.mkdir()
        self.script(self.home / "train", TRAIN)
        self.script(desk.bin / "python3", PYTHON)
        (desk.bin / "cp").symlink_to(str(shutil.which("cp")))
        (desk.bin / "home.json").write_text(json.dumps(str(self.home)))

    def script(self, path: pathlib.Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    def ends(self, how: str) -> None:
        """How the next experiment ends: with this exit code, or `when-asked`."""
        (self.home / "ends").write_text(how)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`bash host.sh WORD…`"""
        environment = {"PATH": str(self.desk.bin), "HOME": str(self.home)}
        command = ["bash", self.home / "host.sh", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)

    def wait_for(self, state: str) -> None:
        until = time.monotonic() + 20
        while (now := self.run("status").stdout.split(" ", 2)[2].strip()) != state:
            assert time.monotonic() < until, f"{now}, not {state}"
            time.sleep(0.02)


@pytest.fixture
def host(desk):
    desk.fake(list=["", *["ACTIVE\n"] * 50])
    host = Host(desk)
    yield host
    supervisor = host.home / "jaxalign/supervisor"
    if supervisor.exists():  # a test that failed leaves nothing running
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(supervisor.read_text()), signal.SIGKILL)


@pytest.fixture
def ready(desk, host):
    desk.run("legacy/setup", CONFIG, *POD)
    return host


def test_setup_installs_the_pinned_packages_and_the_tpu_library_of_jax(ready):
    uv, venv, install = (ready.home / "python.log").read_text().splitlines()
    assert uv == "-m pip install -q --user uv"
    assert "--python 3.11" in venv
    source = f"{ready.home}/jaxalign/source"
    assert install.endswith(f"-c {source}/constraints/python3.11.txt -e {source}[tpu]")
    assert (ready.home / "jaxalign/source" / CONFIG).exists()


def test_launch_goes_from_nothing_to_the_end_of_the_experiment(desk, host):
    host.ends("0")
    one_host = ["--topology", "v5e:2x4"]
    out = desk.run("legacy/launch", *RUN, *one_host, "--loss.eta", "0.05")
    assert f"jaxalign train {CONFIG} --workdir gs://bucket/run --distributed off --loss.eta 0.05" in out
    assert "finished: gs://bucket/run" in desk.errors
    assert (host.home / "platforms").read_text() == "on tpu,cpu\n"  # never silently on the CPU
    assert desk.steps()[:6] == ["list", "create", "list", "scp", "setup", "start"]


@pytest.mark.parametrize(
    ("code", "state"),
    [("0", "done"), (Interrupted.exit_code, "resume"), (ProcessLost.exit_code, "orphaned"), ("3", "failed 3")],
)
def test_a_host_says_how_its_run_ended(ready, code, state):
    ready.wait_for("absent")
    ready.ends(str(code))
    assert ready.run("start", "jaxalign", "train").returncode == 0
    ready.wait_for(state)


def test_a_run_outlives_its_start_and_is_stopped_by_asking(desk, ready):
    ready.ends("when-asked")
    ready.run("start", "jaxalign", "train", "it's mine")
    ready.wait_for("running")
    assert ready.run("start", "jaxalign", "train", "it's mine").stdout == "already running\n"
    other = ready.run("start", "jaxalign", "train", "another")
    assert other.returncode == 1
    assert "another experiment is running" in other.stderr
    assert "nothing was changed" in desk.run("legacy/setup", CONFIG, *POD)
    ready.run("stop")
    ready.wait_for("resume")
    assert ready.run("stop").returncode == 0
    ready.ends("0")
    ready.run("start", "jaxalign", "train", "it's mine")
    ready.wait_for("done")
    assert ready.run("log", "2").stdout == "jaxalign train it's mine\n"  # the second start adds to the log of the first


def test_a_run_that_vanished_is_lost(ready):
    ready.ends("when-asked")
    ready.run("start", "jaxalign", "train")
    ready.wait_for("running")
    kept = ready.home / "jaxalign"
    # The supervisor leads its own process group: nothing else is in it.
    os.killpg(int((kept / "supervisor").read_text()), signal.SIGKILL)
    ready.wait_for("lost")
    assert not (kept / "code").exists()
