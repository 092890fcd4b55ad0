"""Dry runs print every command, with no gcloud, kubectl or xpk on the PATH."""

import json
import re
import shlex
import sys

import pytest
from desk import CONFIG, GKE, POD, ROOT, RUN, TOPOLOGIES, Desk, option, step

from jaxalign.errors import Interrupted
from jaxalign.hosts.watch import ProcessLost
from jaxalign.plan.chips import topology


def installed(desk: Desk) -> None:
    """Puts this jaxalign on the PATH."""
    (desk.bin / "jaxalign").write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -P -m jaxalign "$@"\n')
    (desk.bin / "jaxalign").chmod(0o755)


def resolves(desk: Desk, **settings: object) -> None:
    """Puts a jaxalign on the PATH that prints a config of these settings, whatever it is asked."""
    mesh = {"data": 1, "fsdp": 64, "tensor": 1, "slices": 2, "rules": [["vocab", "tensor"], ["norm", None]]}
    mesh |= {key: settings.pop(key) for key in list(settings) if key in mesh}
    printed = {"type": "x:Experiment", **settings, "placement": {"mesh": mesh, "topology": "v5p:4x4x4"}}
    (desk.root / "resolved.json").write_text(json.dumps(printed, indent=2))
    (desk.bin / "jaxalign").write_text('#!/bin/sh\necho "$*" >> asked\ncat resolved.json\n')
    (desk.bin / "jaxalign").chmod(0o755)


def test_a_config_alone_is_enough_to_look_at(desk):
    """Its topology is its own; what only a user can know is left to be filled in."""
    installed(desk)
    script = desk.run("launch", "configs/comal_llama3_8b_v5p_64.py", "--dry-run")
    assert "--location=REGION --node-locations=REGION-a --machine-type=ct5p-hightpu-4t" in script
    assert '"--workdir", "gs://BUCKET/comal_llama3_8b_v5p_64"' in script
    two = desk.printed("legacy/launch", "configs/comal_llama3_8b_v5p_64.py", "--placement.mesh.slices", "2")
    assert {"--node-count=2", "--accelerator-type=v5p-128", "--zone=REGION-a"} <= set(two[1])
    starts = [option(words, "command") for words in two if words[0] == "gcloud" and step(words) == "start"]
    assert len(starts) == 2
    assert all("--placement.mesh.slices 2" in command for command in starts)


def test_launch_prints_every_command_in_order(desk):
    printed = desk.printed("legacy/launch", *RUN, "--spot", "--loss.eta", "0.05")
    assert [step(words) if words[0] == "gcloud" else words[0] for words in printed] == [
        *("list", "create", "list"),
        *("mkdir", "tar", "scp", "setup"),
        "start",
        *("list", "status", "log"),
    ]
    create = printed[1]
    assert create[:6] == ["gcloud", "compute", "tpus", "queued-resources", "create", "jaxalign"]
    assert set(create[6:]) == {
        "--zone=us-east5-a",
        "--accelerator-type=v5p-16",
        "--runtime-version=v2-alpha-tpuv5",
        "--node-id=jaxalign",
        "--spot",
    }
    archive = str(desk.root / "build/tpu/jaxalign.tar.gz")
    assert printed[4][-6:] == ["pyproject.toml", "README.md", "LICENSE", "constraints", "jaxalign", "my configs"]
    assert printed[5][:8] == [
        *("gcloud", "compute", "tpus", "tpu-vm", "scp"),
        *(archive, str(desk.root / "tpu/legacy/host.sh"), "jaxalign:"),
    ]
    assert all("--worker=all" in words for words in printed[5:8])
    assert not (desk.root / "build").exists()


def test_slices_are_nodes_of_one_queued_resource(desk):
    printed = desk.printed(
        "legacy/launch",
        *RUN,
        "--slices",
        "2",
        "--name",
        "two",
        "--project",
        "p",
        "--reserved",
        "--service-account",
        "me",
    )
    expected = {"--node-count=2", "--node-prefix=two", "--reserved", "--project=p", "--service-account=me"}
    assert expected <= set(printed[1])
    starts = [words for words in printed if words[0] == "gcloud" and step(words) == "start"]
    assert [words[5] for words in starts] == ["two-0", "two-1"]
    assert len({option(words, "command") for words in starts}) == 1  # the same command on every host


@pytest.mark.parametrize(
    ("verb", "words", "expected"),
    [
        ("setup", [CONFIG], ["mkdir", "tar", "scp", "setup"]),
        ("run", [CONFIG, "--workdir", "/shared/run"], ["start"]),
        ("stop", [], ["stop"]),
        ("watch", [CONFIG, "--workdir", "gs://b/r"], ["list", "status", "log"]),
        ("create", [], ["list", "create", "list"]),
        ("teardown", [], ["delete"]),
        ("fetch", ["--workdir", "gs://b/r"], ["list", "upload", "mkdir", "gs://b/r", "gs://b/r-logs"]),
    ],
)
def test_verbs_print_their_commands(desk, verb, words, expected):
    seen = []
    for command in desk.printed(f"legacy/{verb}", *words, *POD):
        storage = command[:3] == ["gcloud", "storage", "rsync"]
        seen.append(command[3] if storage else step(command) if command[0] == "gcloud" else command[0])
    assert seen == expected


def test_logs_are_those_of_one_host(desk):
    (command,) = desk.printed(
        "legacy/logs", *POD, "--slices", "3", "--slice", "2", "--worker", "1", "--lines", "9", "--follow"
    )
    assert command[5] == "jaxalign-2"
    assert option(command, "worker") == "1"
    assert option(command, "command") == "tail -n 9 -F jaxalign/run.log"
    desk.run("legacy/logs", *POD, "--worker", "2", "--dry-run", code=2)
    assert "0 to 1" in desk.errors


def test_fetch_leaves_the_policies_unless_all_is_asked_for(desk):
    rsync = desk.printed("legacy/fetch", *POD, "--workdir", "gs://b/r", "--to", "my copies")[-2]
    pattern = option(rsync, "exclude")
    assert rsync[3:5] == ["gs://b/r", "my copies/run"]
    for left in ("0003/policy/params/x", "0003/fit/7/x"):
        assert re.fullmatch(pattern, left)
    for fetched in ("0003/evals/win.json", "metrics.jsonl"):
        assert not re.fullmatch(pattern, fetched)
    assert not any(
        "--exclude" in word for word in desk.printed("legacy/fetch", *POD, "--workdir", "gs://b/r", "--all")[-2]
    )


def test_xpk_is_told_the_same_run(desk):
    words = [*RUN, "--slices", "2", "--cluster", "c", "--image", "i"]
    (command,) = desk.printed("xpk", *words)
    assert command[:3] == ["xpk", "workload", "create"]
    assert option(command, "tpu-type") == "v5p-16"
    assert option(command, "num-slices") == "2"
    assert option(command, "restart-on-exit-codes") == f"{ProcessLost.exit_code},{Interrupted.exit_code}"
    assert shlex.split(option(command, "command"))[:3] == ["jaxalign", "train", CONFIG]


@pytest.mark.parametrize("words", [["--data", "gs://b"], ["--local", "/dev/shm/near"]])
def test_what_xpk_does_not_mount_is_refused(desk, words):
    desk.run("xpk", *RUN, "--cluster", "c", "--image", "i", *words, "--dry-run", code=2)
    assert "mount" in desk.errors


# What jaxalign knows of the experiment, where it is installed


def test_an_option_that_the_experiment_does_not_have_ends_the_launch_with_what_jaxalign_says(desk):
    installed(desk)
    desk.fake()
    config = "configs/comal_llama3_8b_v5p_64.py"
    for topology_given in ([], ["--topology", "v5p:4x4x4"]):
        words = [config, *GKE[1:5], *topology_given, *GKE[9:], "--loss.etta", "1"]
        desk.run("launch", *words, code=2)
        assert "loss.etta: unknown option; nearest: --loss.eta" in desk.errors
        assert "--topology is missing" not in desk.errors
    assert desk.calls() == []


@pytest.mark.parametrize(
    ("mesh", "words", "said"),
    [
        ({}, [], ""),
        ({"fsdp": -1}, [], ""),
        ({"fsdp": 128}, ["--topology", "tpu7x:4x4x4"], ""),  # two devices a chip
        ({"fsdp": 32}, [], "placement.mesh is of 64 devices, and 2 x v5p:4x4x4 has 128"),
        ({"fsdp": 48, "data": -1}, [], "does not divide the 128 devices of 2 x v5p:4x4x4"),
        ({}, ["--topology", "v5p:4x4x8"], "placement.mesh is of 128 devices, and 2 x v5p:4x4x8 has 256"),
        ({}, ["--slices", "3"], "--slices 3, but placement.mesh.slices is 2"),
        ({"slices": 1, "fsdp": 128}, [], "--slices 2, but placement.mesh.slices is 1"),
    ],
)
def test_a_mesh_of_other_devices_than_are_launched_is_refused(desk, mesh, words, said):
    resolves(desk, **mesh)
    desk.run("launch", *GKE, *words, "--dry-run", code=2 if said else 0)
    assert said in desk.errors


def test_slices_are_those_of_the_config_unless_they_are_given(desk):
    resolves(desk)
    words = [CONFIG, "--cluster", "c", "--image", "i:1", "--workdir", "gs://b/run", "--dry-run"]
    assert "node-pools create jaxalign-1 " in desk.run("launch", *words)
    desk.run("launch", *words, "--slices", "1", code=2)
    assert "--slices 1, but placement.mesh.slices is 2" in desk.errors


def test_a_launch_asks_for_the_experiment_once(desk):
    resolves(desk)
    desk.run("launch", *GKE, "--dry-run", "--loss.eta", "0.05", "--", "--iterations", "6")
    asked = (desk.root / "asked").read_text().splitlines()
    assert asked == [f"train {CONFIG} --print-config --loss.eta 0.05 --iterations 6"]


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_devices_of_a_chip_are_those_that_are_planned_for(desk, name):
    devices = topology(name).devices
    resolves(desk, fsdp=1, slices=1)
    words = [CONFIG, "--topology", name, "--cluster", "c", "--image", "i:1", "--workdir", "gs://b/run", "--dry-run"]
    desk.run("xpk", *words, code=2 if devices > 1 else 0)
    assert devices == 1 or f"1 x {name} has {devices}" in desk.errors


def test_paths_that_hosts_do_not_have_are_named_and_stop_nothing(desk):
    paths = {
        "model": {"path": "models/my = model"},
        "feedback": {"prompts": {"path": "data/prompts.jsonl", "names": ["a/b", {"path": "judges/one"}]}},
        "evaluation": {"path": "my configs/held.jsonl", "others": [{"run": "runs/other"}, {"run": "/data/other"}]},
        "optimizer": {"path": "gs://bucket/x", "template": "", "prompts": {"path": None}},
    }
    resolves(desk, **paths)
    desk.run("launch", *GKE, "--dry-run")
    assert [line.split("hosts have no ")[1] for line in desk.errors.splitlines()] == [
        "models/my = model (tpu/README.md, section 4): give --model.path",
        "data/prompts.jsonl (tpu/README.md, section 4): give --feedback.prompts.path",
        "judges/one (tpu/README.md, section 4): give --feedback.prompts.names.1.path",
        "runs/other (tpu/README.md, section 4): give --evaluation.others.0.run",
    ]


def test_a_config_of_a_pod_names_files_that_hosts_do_not_have(desk):
    installed(desk)
    words = ["configs/comal_llama3_8b_v5p_64.py", "--data", "gs://b/inputs", "--model.path", "/data/llama3-8b-instruct"]
    desk.run("launch", *words, "--dry-run")
    (line,) = desk.errors.splitlines()
    assert line.endswith("give --feedback.prompts.path")


README = (ROOT / "tpu/README.md").read_text().replace("\\\n", " ")


@pytest.mark.parametrize("line", [line for line in README.splitlines() if line.startswith("$ tpu/")])
def test_the_commands_of_the_readme_are_understood(desk, line):
    (desk.root / "plan.json").write_text('{"step_seconds_estimate": 2.5, "chip_hours_estimate": 640}')
    script, *words = shlex.split(line.removeprefix("$ "), comments=True)
    assert desk.run(script.removeprefix("tpu/").removesuffix(".sh"), *words, "--dry-run").strip()
