"""Real processes of a run on one machine, eight CPU devices among them, and what is compared of their runs."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable

import jax
import numpy as np
import pytest
from made_runs import policy

from jaxalign.errors import Interrupted
from jaxalign.storage.record import read_metrics
from jaxalign.storage.rundir import read_run

MESH = ("--placement.mesh.data", "2", "--placement.mesh.fsdp", "4")
"""The parameters are split over the devices of a process, the rows over all."""
OTHER_MESH = ("--placement.mesh.data", "2", "--placement.mesh.fsdp", "2", "--placement.mesh.tensor", "2")
BRIEF = (
    *("--iterations", "1", "--swap_every", "none", "--feedback.prompts_per_iteration", "8"),
    *("--feedback.rollout.samples", "3", "--feedback.rollout.max_tokens", "8", "--placement.rollout_rows", "12"),
    *("--evaluation.rollout.max_tokens", "8", "--evaluation.prompts.limit", "8"),
    *("--fit.batch_size", "8", "--fit.epochs", "4"),
)
"""One iteration of tiny_lm, whose fit has eight steps."""
HERE = pathlib.Path(__file__).parent
START = """
import os, signal, sys
import jax
from jaxalign.__main__ import run_and_leave
jax.config.update("jax_cpu_enable_async_dispatch", False)
if "STOP_AT" in os.environ:
    from killed import arm
    arm(os.environ["STOP_AT"], 0, sys.argv[sys.argv.index("--workdir") + 1], signal.SIGTERM)
run_and_leave()
"""
"""The command, for devices that share the threads of two cores: programs that wait for one another's collectives could
all be started and none be finished."""
PATIENCE = 30
"""Seconds of silence: a loaded machine may leave a process that lives without time for many of them."""
SECONDS = 300
"""Within which any launch must have ended, on a machine that does other work too."""


class Launch:
    """Processes of `jaxalign train CONFIG --workdir DIR OPTIONS…`, and what each said.

    `each` gives a process options of its own. `stop_at` is a glob below the run directory: process 0 is sent SIGTERM
    when it names a path that fits, at the same moment on any machine.
    """

    def __init__(
        self,
        config: pathlib.Path,
        workdir: pathlib.Path,
        cache: pathlib.Path,
        count: int,
        *options: str,
        each: tuple[tuple[str, ...], ...] = ((), ()),
        stop_at: str | None = None,
    ):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        flags = "--xla_backend_optimization_level=0 --xla_cpu_collective_call_terminate_timeout_seconds=240"
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={8 // count} {flags}",
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")])),
        }
        self.logs = [workdir.parent / f"{workdir.name}.{index}.log" for index in range(count)]
        command = [sys.executable, "-c", START, "train", str(config), "--workdir", str(workdir), *options]
        self.processes = []
        for index, log in enumerate(self.logs):
            among = ("--coordinator", address, "--processes", str(count), "--process-id", str(index))
            among = (*among, "--peer-timeout", str(PATIENCE)) if count > 1 else ()
            own = {"STOP_AT": stop_at} if stop_at is not None and index == 0 else {}
            with log.open("w") as out:
                arguments = [*command, *among, *each[index]]
                self.processes.append(subprocess.Popen(arguments, env=environment | own, stdout=out, stderr=out))

    def __enter__(self) -> "Launch":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()

    def codes(self, seconds: float = SECONDS) -> list[int]:
        """Exit codes of all processes, which must end within `seconds`."""
        limit = time.monotonic() + seconds
        return [process.wait(max(limit - time.monotonic(), 0.1)) for process in self.processes]

    def said(self, index: int) -> str:
        return self.logs[index].read_text(errors="replace")

    def wait_for(self, path: pathlib.Path) -> None:
        """Until a path exists, while all processes run."""
        limit = time.monotonic() + SECONDS
        while not path.exists():
            assert [process.poll() for process in self.processes] == [None] * len(self.processes), self.everything()
            assert time.monotonic() < limit, self.everything()
            time.sleep(0.01)

    def wait_while(self, so: Callable[[], bool]) -> None:
        """While something is so, and process 0 runs."""
        limit = time.monotonic() + SECONDS
        while so() and self.processes[0].poll() is None:
            assert time.monotonic() < limit, self.everything()
            time.sleep(0.01)

    def everything(self) -> str:
        return "\n".join(f"--- process {index}\n{self.said(index)}" for index in range(len(self.logs)))


def finish(config: pathlib.Path, workdir: pathlib.Path, cache: pathlib.Path, count: int, *options: str) -> Launch:
    """Runs to the end."""
    with Launch(config, workdir, cache, count, *options) as launch:
        assert launch.codes() == [0] * count, launch.everything()
    return launch


def stopped(
    config: pathlib.Path, workdir: pathlib.Path, cache: pathlib.Path, count: int, *options: str, at: str
) -> Launch:
    """Runs until process 0 names the path `at`, and stops there as if it was asked to."""
    with Launch(config, workdir, cache, count, *options, stop_at=at) as launch:
        assert launch.codes() == [Interrupted.exit_code] * count, launch.everything()
    return launch


def files(workdir: pathlib.Path, pattern: str) -> dict[str, bytes]:
    found = {str(path.relative_to(workdir)): path.read_bytes() for path in workdir.glob(pattern) if path.is_file()}
    assert found, pattern
    return found


def assert_same_trajectory(one: pathlib.Path, other: pathlib.Path) -> None:
    """Metrics of every step and parameters of every policy, to rounding."""
    for ours, theirs in zip(read_metrics(one), read_metrics(other), strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            # fp32 sums in another order (1e-7), amplified by Adam's division by small second moments over 8 steps.
            near = pytest.approx(value, rel=1e-3, abs=1e-4) if isinstance(value, float) else value
            assert theirs[name] == near, (ours["iteration"], ours["phase"], ours["step"], name)
    numbers = read_run(one).policies()
    assert numbers == read_run(other).policies() == [0, 1]
    for number in numbers:
        for a, b in zip(*(jax.tree.leaves(policy(path, number)) for path in (one, other)), strict=True):
            # A step moves a parameter by at most the learning rate 1e-3, whatever its gradient.
            np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-4)
