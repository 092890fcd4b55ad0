"""Dry runs print every command, with no gcloud, kubectl or xpk on the PATH."""

import re
import shlex
import sys

import pytest
from desk import CONFIG, POD, ROOT, RUN, option, step

from jaxalign.errors import Interrupted
from jaxalign.hosts.watch import ProcessLost


def test_a_config_alone_is_enough_to_look_at(desk):
    """Its topology is its own; what only a user can know is left to be filled in."""
    (desk.bin / "jaxalign").write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -P -m jaxalign "$@"\n')
    (desk.bin / "jaxalign").chmod(0o755)
    script = desk.run("launch", "configs/comal_llama3_8b_v5p_64.py", "--dry-run")
    assert "--location=ZONE --node-locations=ZONE --machine-type=ct5p-hightpu-4t" in script
    assert '"--workdir", "gs://BUCKET/comal_llama3_8b_v5p_64"' in script
    two = desk.printed("legacy/launch", "configs/comal_llama3_8b_v5p_64.py", "--placement.mesh.slices", "2")
    assert {"--node-count=2", "--accelerator-type=v5p-128", "--zone=ZONE"} <= set(two[1])
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


README = (ROOT / "tpu/README.md").read_text().replace("\\\n", " ")


@pytest.mark.parametrize("line", [line for line in README.splitlines() if line.startswith("$ tpu/")])
def test_the_commands_of_the_readme_are_understood(desk, line):
    (desk.root / "plan.json").write_text('{"step_seconds_estimate": 2.5, "chip_hours_estimate": 640}')
    script, *words = shlex.split(line.removeprefix("$ "), comments=True)
    assert desk.run(script.removeprefix("tpu/").removesuffix(".sh"), *words, "--dry-run").strip()
