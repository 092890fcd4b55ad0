"""How the processes of a run find together, and what happens when one of them fails or falls silent."""

import dataclasses
import json
import threading

import jax
import pytest
from made_hosts import Memory

from jaxalign.__main__ import main
from jaxalign.errors import ConfigError
from jaxalign.hosts.group import ALONE, Hosts
from jaxalign.hosts.join import Joining, gpus_of_task, joined
from jaxalign.hosts.watch import Failure, ProcessLost, Watch
from jaxalign.storage import rundir
from jaxalign.storage.record import Silent

CONFIG = {"seed": 0}
KEY = jax.random.key(0)


# --------------------------------------------------------------------------------------------------------------
# Options and surroundings

TOGETHER = Joining(coordinator="10.0.0.1:1234", processes=4, process_id=2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"coordinator": None}, "--coordinator missing"),
        ({"processes": None}, "--processes missing"),
        ({"process_id": None}, "--process-id missing"),
        ({"distributed": "off"}, "--distributed off is one process"),
        ({"coordinator": "10.0.0.1"}, "is not HOST:PORT"),
        ({"coordinator": "10.0.0.1:0"}, "ports are 1 … 65535"),
        ({"coordinator": "10.0.0.1:99999"}, "ports are 1 … 65535"),
        ({"processes": 0, "process_id": 0}, "--processes must be at least 1"),
        ({"process_id": 4}, "one of 0 … 3, got 4"),
        ({"process_id": -1}, "one of 0 … 3, got -1"),
        ({"join_timeout": 0}, "--join-timeout must be at least 5"),
        ({"peer_timeout": 1}, "--peer-timeout must be at least 5"),
    ],
)
def test_options_that_do_not_fit_each_other_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        dataclasses.replace(TOGETHER, **changes).arguments({})


def test_the_command_refuses_them_before_any_work(tmp_path, capsys):
    command = ["train", "configs/tiny_lm.py", "--workdir", str(tmp_path / "run"), "--processes", "2"]
    assert main(command) == 2
    assert "--coordinator, --process-id missing" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_named_processes_are_found_without_detection():
    assert TOGETHER.arguments({}) == {
        "coordinator_address": "10.0.0.1:1234",
        "num_processes": 4,
        "process_id": 2,
        "cluster_detection_method": "deactivate",
    }
    assert dataclasses.replace(TOGETHER, processes=1, process_id=0).arguments({}) is None


PLAIN = {"TPU_SKIP_MDS_QUERY": "1"}
SLURM = {
    **PLAIN,
    "SLURM_PROCID": "1",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_NTASKS": "2",
    "SLURM_STEP_NUM_NODES": "2",
}


@pytest.mark.parametrize(
    ("environment", "cluster"),
    [
        (PLAIN, False),
        (SLURM, True),
        ({**SLURM, "SLURM_NTASKS": "1"}, False),
        ({**PLAIN, "SLURM_JOB_ID": "7", "SLURM_PROCID": "0"}, False),  # a batch script outside srun
        ({"TPU_WORKER_HOSTNAMES": "host-0,host-1", "TPU_WORKER_ID": "0"}, True),  # a GKE JobSet on one slice
        ({"TPU_WORKER_HOSTNAMES": "host-0", "MEGASCALE_NUM_SLICES": "2"}, True),  # one host a slice, two slices
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),  # one host in all
        ({"TPU_PROCESS_ADDRESSES": "a:8476,b:8476"}, True),
        ({}, True),  # TPU chips and no word of workers: JAX asks the cloud
        ({**PLAIN, "KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),  # a notebook in a cluster
        ({**PLAIN, "KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}, True),
    ],
)
def test_clusters_are_seen_in_the_environment(environment, cluster):
    assert (Joining().arguments(environment) is not None) is cluster
    assert Joining(distributed="off").arguments(environment) is None


def test_a_machine_with_chips_that_is_no_pod_runs_alone(monkeypatch):
    def nothing_found(**arguments):
        assert arguments["local_device_ids"] is None
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", nothing_found)
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY")
    with joined(Joining()) as hosts:
        assert hosts is ALONE
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "host-0,host-1")
    with pytest.raises(ConfigError, match="cannot find together: coordinator_address"), joined(Joining()):
        pass


def test_one_slurm_task_a_node_sees_all_its_gpus():
    assert gpus_of_task({**SLURM, "SLURM_GPUS_ON_NODE": "4"}) == [0, 1, 2, 3]
    assert gpus_of_task({**SLURM, "SLURM_NTASKS": "8", "SLURM_GPUS_ON_NODE": "4"}) is None
    assert gpus_of_task(SLURM) is None


# --------------------------------------------------------------------------------------------------------------
# The watch


class Ended:
    """Stands for the end of a process."""

    def __init__(self):
        self._event, self.code = threading.Event(), -1

    def __call__(self, code: int) -> None:
        self.code = code
        self._event.set()

    def wait(self) -> int:
        assert self._event.wait(15), "was not ended"
        return self.code


def test_a_failure_ends_the_others_with_its_words_and_its_code(capsys):
    service, ended = Memory(2), Ended()
    with Watch(Hosts(0, 2, service), service, 60.0, ended), Watch(Hosts(1, 2, service), service, 60.0) as failing:
        failing.fail(Failure("process 1 of 2 on elsewhere: no space left", 5))
        assert ended.wait() == 5
    assert "process 1 of 2 on elsewhere: no space left" in capsys.readouterr().err


def test_a_silent_process_is_missed_by_the_first_and_told_to_the_others(capsys):
    service, first, second = Memory(3), Ended(), Ended()
    service.key_value_set("jaxalign/signs/2", "0")  # the last sign of process 2
    with Watch(Hosts(0, 3, service), service, 3.0, first), Watch(Hosts(1, 3, service), service, 3.0, second):
        assert (first.wait(), second.wait()) == (ProcessLost.exit_code,) * 2
    assert capsys.readouterr().err.count("process 2 of 3 has not been heard of") == 2
    told = [json.loads(words) for key, words in service.words.items() if key.startswith("jaxalign/failure")]
    assert [failure["code"] for failure in told] == [ProcessLost.exit_code]


def test_processes_that_live_are_not_missed():
    service, ended = Memory(2), Ended()
    with Watch(Hosts(0, 2, service), service, 2.5, ended), Watch(Hosts(1, 2, service), service, 2.5, ended):
        threading.Event().wait(4.5)
    assert ended.code == -1


def test_a_mesh_that_leaves_a_process_out_is_refused(tmp_path):
    """Here all devices belong to process 0, so a second one would have none."""
    from test_align import tiny_lm

    from jaxalign.session import Session

    run = rundir.RunDir(rundir.durable.absolute(tmp_path), CONFIG, None, Hosts(0, 2))
    with pytest.raises(ConfigError, match="are those of 1 of 2 processes"):
        Session(tiny_lm(), run, Silent())
