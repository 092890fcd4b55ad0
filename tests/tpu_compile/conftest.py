"""Asks libtpu, before it is loaded, to write down the schedule of every kernel it compiles."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest

SCHEDULES = Path(tempfile.mkdtemp(prefix="schedules-"))

atexit.register(shutil.rmtree, SCHEDULES, ignore_errors=True)
os.environ.update(
    LIBTPU_INIT_ARGS=" ".join(
        [
            os.environ.get("LIBTPU_INIT_ARGS", ""),
            f"--xla_jf_dump_to={SCHEDULES}",
            "--xla_jf_dump_llo_text=true",
            "--xla_jf_dump_llo_pass_label_regex=.*delay.*",
        ]
    ),
    TPU_SKIP_MDS_QUERY="1",
    TPU_ACCELERATOR_TYPE="v5litepod-8",
    TPU_WORKER_HOSTNAMES="localhost",
    ALLOW_MULTIPLE_LIBTPU_LOAD="1",
)


@pytest.fixture
def schedules() -> Path:
    """Where the schedules of this session's compilations are."""
    return SCHEDULES
