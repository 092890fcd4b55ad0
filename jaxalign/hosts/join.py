"""How the processes of a run find together, before JAX touches a device.

    --distributed auto     JAX's own detection, where the environment shows a pod, a JobSet or Slurm
    --coordinator HOST:PORT --processes N --process-id I
    --distributed off      one process

On a machine that shows no cluster nothing is asked of any network.
"""

import contextlib
import os
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax

from jaxalign.errors import ConfigError, Interrupted, JaxalignError, first_line
from jaxalign.hosts.group import ALONE, Hosts
from jaxalign.hosts.stop import leave
from jaxalign.hosts.watch import Failure, ProcessLost, Watch

_ADDRESS = re.compile(r".+:(?P<port>\d{1,9})")


@dataclass(frozen=True)
class Joining:
    """How to find the other processes, and how long to wait for them."""

    distributed: Literal["auto", "off"] = "auto"
    coordinator: str | None = None
    """HOST:PORT at which process 0 listens"""
    processes: int | None = None
    process_id: int | None = None
    join_timeout: int = 300
    """seconds within which all processes must have come"""
    peer_timeout: int = 60
    """seconds after which a process that gives no sign of life counts as gone"""

    def problems(self) -> Iterable[str]:
        named = {"--coordinator": self.coordinator, "--processes": self.processes, "--process-id": self.process_id}
        missing = [name for name, value in named.items() if value is None]
        if 0 < len(missing) < len(named):
            yield f"{', '.join(missing)} missing: --coordinator, --processes and --process-id go together"
        if not missing and self.distributed == "off":
            yield "--distributed off is one process; leave out --coordinator, --processes and --process-id"
        if self.coordinator is not None:
            address = _ADDRESS.fullmatch(self.coordinator)
            if address is None:
                yield f"--coordinator {self.coordinator!r} is not HOST:PORT"
            elif not 0 < int(address["port"]) < 2**16:
                yield f"--coordinator {self.coordinator!r}: ports are 1 … 65535"
        if self.processes is not None and self.processes < 1:
            yield f"--processes must be at least 1, got {self.processes}"
        elif self.processes is not None and not 0 <= (self.process_id or 0) < self.processes:
            yield f"--process-id must be one of 0 … {self.processes - 1}, got {self.process_id}"
        for name, seconds in (("--join-timeout", self.join_timeout), ("--peer-timeout", self.peer_timeout)):
            if seconds < 5:
                yield f"{name} must be at least 5 seconds, got {seconds}"

    def arguments(self, environment: Mapping[str, str]) -> dict[str, Any] | None:
        """What JAX's `initialize` is called with; None for a process that is alone."""
        for problem in self.problems():
            raise ConfigError(problem)
        if self.coordinator is not None:
            address = {
                "coordinator_address": self.coordinator,
                "num_processes": self.processes,
                "process_id": self.process_id,
            }
            return {**address, "cluster_detection_method": "deactivate"} if self.processes != 1 else None
        if self.distributed == "off" or not (names_several(environment) or may_be_pod(environment)):
            return None
        return {"local_device_ids": gpus_of_task(environment)}


def names_several(environment: Mapping[str, str]) -> bool:
    """Whether the environment names several tasks of Slurm, workers or slices of a pod, or an indexed job."""
    if "SLURM_PROCID" in environment and "SLURM_STEP_NODELIST" in environment:
        return int(environment.get("SLURM_NTASKS", "1")) > 1
    workers = _workers(environment)
    if "," in workers or int(environment.get("MEGASCALE_NUM_SLICES") or "1") > 1:
        return True
    return not workers and {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= environment.keys()


def may_be_pod(environment: Mapping[str, str]) -> bool:
    """Whether only the metadata server of the cloud knows: there are TPU chips, and not a word of workers.

    Importing JAX sets TPU_SKIP_MDS_QUERY where there is no TPU chip.
    """
    return not _workers(environment) and "TPU_SKIP_MDS_QUERY" not in environment


def _workers(environment: Mapping[str, str]) -> str:
    return environment.get("TPU_PROCESS_ADDRESSES", environment.get("TPU_WORKER_HOSTNAMES", ""))


def gpus_of_task(environment: Mapping[str, str]) -> list[int] | None:
    """All GPUs of the node where Slurm runs one task a node; None leaves it to JAX, which gives each task one."""
    if environment.get("SLURM_NTASKS") is None or environment.get("SLURM_NTASKS") != environment.get(
        "SLURM_STEP_NUM_NODES"
    ):
        return None
    gpus = environment.get("SLURM_GPUS_ON_NODE", "")
    return list(range(int(gpus))) if gpus.isdecimal() else None


@contextlib.contextmanager
def joined(how: Joining) -> Iterator[Hosts]:
    """This process among those of the run. Within the block, the failure of one is the end of all.

    Raises ConfigError for options that do not fit each other. When the others do not come, are lost or fail, the
    process ends with a message on stderr and the exit code of `ProcessLost`, or that of the failure.
    """
    arguments = how.arguments(os.environ)
    if arguments is None or not _initialise(how, arguments):
        yield ALONE
        return
    from jax._src import distributed  # the one door to the coordination service's client

    state = distributed.global_state
    service: Any = state.client
    hosts = Hosts(state.process_id, state.num_processes, service)
    interrupted = None
    with Watch(hosts, service, how.peer_timeout) as watch:
        try:
            yield hosts
        except Interrupted as error:  # all processes stop at the same place
            interrupted = error
        except BaseException as error:
            _fail(hosts, watch, error, how.peer_timeout)
            raise
        hosts.barrier("end")
    jax.distributed.shutdown()
    if interrupted is not None:
        raise interrupted


def _initialise(how: Joining, arguments: Mapping[str, Any]) -> bool:
    """JAX ends a process that waits in vain with a C++ stack trace; the timer is earlier and says what is wrong.

    False where JAX finds no cluster.
    """
    # Signals are answered by `stop`, for all processes at once; JAX's own service would take SIGTERM away from it.
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # Gloo pairs collectives by their order, which programs that run side by side on a CPU's threads would not keep.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    timer = threading.Timer(how.join_timeout, _give_up, (how,))
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            **arguments,
            initialization_timeout=how.join_timeout + 60,
            heartbeat_timeout_seconds=2 * how.peer_timeout,
            shutdown_timeout_seconds=how.peer_timeout,
        )
    except Exception as error:  # detection asks metadata servers and APIs, which fail in many ways
        first = first_line(error)
        if "coordinator_address should be defined" in first and not names_several(os.environ):
            return False  # TPU chips, but no pod
        raise ConfigError(
            f"the processes cannot find together: {first}. Give --coordinator HOST:PORT --processes N --process-id I "
            "on each, or --distributed off for one process"
        ) from error
    finally:
        timer.cancel()
    return True


def _give_up(how: Joining) -> None:
    where = how.coordinator or "the coordinator that JAX found"
    if how.process_id == 0:
        what = f"not all of the {how.processes} processes came to {where}"
    elif how.coordinator is not None and not _answers(how.coordinator):
        what = f"nothing answers at {where}; is process 0 running, and may this host reach that port?"
    else:
        what = f"{where} answers, but not all processes have come; each of them needs the same command"
    print(f"jaxalign: {what} ({how.join_timeout} s, --join-timeout)", file=sys.stderr, flush=True)
    leave(ProcessLost.exit_code)


def _answers(address: str) -> bool:
    host, port = address.rsplit(":", 1)
    with contextlib.suppress(OSError), socket.create_connection((host.strip("[]"), int(port)), timeout=5):
        return True
    return False


def _fail(hosts: Hosts, watch: Watch, error: BaseException, patience: float) -> None:
    """Says on all processes what went wrong on this one. Does not return unless `error` is one that has a message."""
    who = f"process {hosts.index} of {hosts.count} on {socket.gethostname()}"
    first = first_line(error)
    if _may_be_a_peers(error):  # then the watch will know which one, and end this process too
        print(f"jaxalign: {who}: {first}; waiting to learn whether a process is gone", file=sys.stderr, flush=True)
        time.sleep(patience + 5)
    if isinstance(error, JaxalignError):
        watch.fail(Failure(f"{who}: {error}", error.exit_code))
        error.args = (f"{who}: {error}",)
        return
    traceback.print_exception(error)
    watch.fail(Failure(f"{who}: {type(error).__name__}: {first}", 1))
    leave(1)


def _may_be_a_peers(error: BaseException | None) -> bool:
    """Whether a collective or a barrier broke, as it does where a peer dies."""
    while error is not None:
        if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            return True
        error = error.__cause__
    return False
