"""Whole runs in a bucket: the same bits as on a disk, whenever they are killed and however the bucket behaves."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest
from etils import epath
from made_bucket import Bucket
from made_runs import CONFIGS, assert_same_run

GAME = (
    "--iterations",
    "2",
    "--swap_every",
    "1",
    "--keep_policies",
    "none",
    "--fit.epochs",
    "2",
    "--fit.checkpoint_every",
    "4",
)
LAUNCHES = 40


def started(workdir: str, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "jaxalign", "train", str(CONFIGS / "games" / "three_action.py"), *GAME, *options]
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    return subprocess.Popen([*command, "--workdir", workdir], stderr=subprocess.PIPE, text=True, env=environment)


def ended(process: subprocess.Popen) -> tuple[int, str]:
    _, said = process.communicate(timeout=280)
    return process.returncode, said


def fetched(root: str, to: pathlib.Path) -> pathlib.Path:
    """The run as `tpu/fetch.sh` would bring it."""
    for file in epath.Path(root).glob("*"):
        _copy(file, to / file.name)
    return to


def _copy(place: epath.Path, to: pathlib.Path) -> None:
    if place.is_dir():
        for entry in place.iterdir():
            _copy(entry, to / entry.name)
    else:
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(place.read_bytes())


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("disk") / "run"
    assert ended(started(str(workdir)))[0] == 0
    return workdir


def test_a_run_in_a_bucket_is_that_on_a_disk(whole, root, bucket: Bucket, tmp_path):
    bucket.every = 1.0
    code, said = ended(started(root))
    assert code == 0, said
    assert_same_run(whole, fetched(root, tmp_path / "fetched"))
    # no object but those that grow was written again within a second
    refused = {name.rpartition("/")[2] for name, count in bucket.refused.items() if count}
    assert refused <= {"metrics.jsonl", "perf.jsonl", "lock", "manifest.ocdbt"}


@pytest.mark.timeout(1800)
def test_a_run_that_is_killed_again_and_again_loses_nothing(whole, root, bucket: Bucket, tmp_path):
    """SIGKILL in the place of a write, each time a few writes later in a launch."""
    for launch in range(LAUNCHES):
        process = started(root)
        bucket.ends, bucket.left = lambda process=process: os.kill(process.pid, signal.SIGKILL), 12 + 9 * launch
        code, said = ended(process)
        bucket.left = -1
        if code == 0:
            break
        assert code == -signal.SIGKILL, said
    assert code == 0
    assert launch >= 4
    assert_same_run(whole, fetched(root, tmp_path / "fetched"))


def test_two_launches_at_once_are_one_run(root):
    both = [started(root) for _ in range(2)]
    codes = sorted((ended(process) for process in both), key=lambda each: each[0])
    assert [code for code, _ in codes] == [0, 5]
    assert "this run directory is in use by process" in codes[1][1]


def test_other_verbs_read_it(whole, root, tmp_path):
    process = started(root)
    assert ended(process)[0] == 0
    for verb in (["sample", root, "--prompt", "?", "--max-tokens", "1"], ["eval", root]):
        found = subprocess.run([sys.executable, "-m", "jaxalign", *verb], capture_output=True, text=True, timeout=200)
        assert found.returncode == 0, found.stderr


def test_what_cannot_be_reached_is_one_line(bucket: Bucket):
    code, said = ended(started("s3://bucket/run"))
    assert code == 2
    assert "not here" in said.splitlines()[-1]
    assert "Traceback" not in said
    code, said = ended(started("gs://no-such-bucket/run"))
    assert code != 0
    assert "Traceback" not in said
