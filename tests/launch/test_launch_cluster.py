"""From a cluster of GKE to a run on it: what is checked, created, asked to stop and deleted."""

import shlex
import subprocess

import pytest
from desk import CLUSTER, CONFIG, GKE, TOPOLOGIES, option

FLAGS = {"--cluster=my-cluster", "--location=us-east5"}
POOLS = [*CLUSTER[:4], "--topology", "v5p:4x4x4"]


def creations(printed: list[list[str]]) -> list[list[str]]:
    return [words for words in printed if words[:4] == ["gcloud", "container", "node-pools", "create"]]


def test_a_dry_run_shows_the_commands_of_a_first_launch_with_the_manifest_in_them(desk):
    script = desk.run("launch", *GKE, "--loss.eta", "0.05", "--dry-run")
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    before, manifest = script.split("kubectl apply -f - <<'JOBSET'\n")
    assert manifest == desk.run("jobset", *GKE, "--loss.eta", "0.05", "--dry-run") + "JOBSET\n"
    verbs = [" ".join(shlex.split(line)[:4]) for line in before.splitlines()]
    assert verbs.index("gcloud container clusters get-credentials") < verbs.index(
        "kubectl get crd jobsets.jobset.x-k8s.io"
    )
    assert verbs[-4:] == ["gcloud container node-pools list", "gcloud container node-pools create"] * 2


def test_what_is_run_is_what_was_printed(desk):
    printed = [
        line for line in desk.run("launch", *GKE, "--dry-run").splitlines() if line.startswith(("gcloud", "kubectl"))
    ]
    desk.fake(list=["", ""], get=["array", "serviceaccount/default", ""], otherwise=["there"])
    desk.run("launch", *GKE)
    calls = [words for words in desk.calls() if "jobset" not in words]  # whether there was one that has ended
    assert calls[:-1] == [shlex.split(line) for line in printed[:-1]]
    assert calls[-1] == ["kubectl", "apply", "-f", "-"]


def test_what_lies_behind_a_lone_dash_is_the_experiments_and_nothing_is_applied_before_the_checks(desk):
    desk.fake(list=["", ""], get=["array", "serviceaccount/default", ""], otherwise=["there"])
    desk.run("launch", *GKE, "--", "--iterations", "6")
    calls = desk.calls()
    assert [words[0] for words in calls].count("kubectl") > 1
    assert [words[1:3] for words in calls].index(["apply", "-f"]) == len(calls) - 1
    assert calls[0][0] == "gcloud"


def test_a_slice_is_a_pool_of_all_its_hosts(desk):
    pools = creations(desk.printed("pools", *CLUSTER))
    assert [words[4] for words in pools] == ["jaxalign-0", "jaxalign-1"]
    for words in pools:
        assert set(words) >= FLAGS | {
            "--node-locations=us-east5-a",
            "--machine-type=ct5p-hightpu-4t",
            "--tpu-topology=4x4x4",
            "--num-nodes=16",
            "--scopes=cloud-platform",
            "--workload-metadata=GKE_METADATA",
        }


@pytest.mark.parametrize("name", [name for name in TOPOLOGIES if int(TOPOLOGIES[name][1]) in (1, 2, 16)])
def test_a_pool_has_the_nodes_that_the_jobset_asks_for(desk, name):
    hosts, machine = TOPOLOGIES[name][1], TOPOLOGIES[name][6]
    printed = desk.printed("pools", *CLUSTER[:4], "--topology", name)
    (words,) = creations(printed)
    assert option(words, "num-nodes") == hosts
    assert option(words, "machine-type") == machine
    wired = [word for word in words if word.startswith(("--tpu-topology", "--placement-policy"))]
    assert len(wired) == (int(hosts) > 1)
    policies = [words for words in printed if words[2:5] == ["resource-policies", "create", "workload-policy"]]
    assert len(policies) == (name.startswith("tpu7x") and int(hosts) > 1)
    if policies:
        assert option(words, "placement-policy") == policies[0][5]
        assert option(policies[0], "accelerator-topology") == name.split(":")[1]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--spot"], {"--spot", "--num-nodes=16"}),
        (["--reservation", "mine"], {"--reservation-affinity=specific", "--reservation=mine", "--num-nodes=16"}),
        (["--flex-start"], {"--flex-start", "--reservation-affinity=none", "--num-nodes=0", "--max-nodes=16"}),
        (["--location", "us-east5-b", "--project", "p"], {"--location=us-east5-b", "--project=p"}),
    ],
)
def test_capacity_of_every_kind(desk, words, expected):
    (created,) = creations(desk.printed("pools", *POOLS, *words))
    assert expected <= set(created)


def test_a_cluster_of_autopilot_makes_its_own_nodes(desk):
    assert desk.printed("pools", *POOLS, "--autopilot") == []
    manifest = desk.run("jobset", *GKE, "--autopilot", "--reservation", "mine", "--dry-run")
    assert 'cloud.google.com/reservation-name: "mine"' in manifest
    assert "reservation-name" not in desk.run("jobset", *GKE, "--reservation", "mine", "--dry-run")


@pytest.mark.parametrize(("state", "code", "created"), [("RUNNING\n", 0, 0), ("", 0, 1), ("ERROR\n", 2, 0)])
def test_pools_that_are_there_are_left_alone(desk, state, code, created):
    desk.fake(list=[state])
    desk.run("pools", *POOLS, code=code)
    assert len(creations(desk.calls())) == created
    assert ("is ERROR" in desk.errors) == bool(code)


def test_a_pool_without_capacity_says_what_else_there_is(desk):
    desk.fake(list=[""], otherwise=[None])
    desk.run("pools", *POOLS, code=2)
    assert "--flex-start or --reservation" in desk.errors


# Before anything is paid for


def test_all_that_is_well_is_said(desk):
    desk.fake(get=["array", "serviceaccount/default"], otherwise=["there"])
    out = desk.run(
        "check", *CLUSTER, "--image", "us-docker.pkg.dev/p/r/j:1", "--workdir", "gs://b/run", "--data", "gs://w/x"
    )
    assert "FINDING" not in out
    assert out.count("ok       ") == 11


def test_each_finding_says_what_to_do(desk):
    """Here nothing is there: no cluster, no JobSet, no account, no bucket."""
    desk.fake(get=["", None], otherwise=[""])
    out = desk.run("check", *CLUSTER, "--workdir", "gs://b/run", code=1)
    findings = [line for line in out.splitlines() if line.startswith("FINDING  ")]
    assert [line.split()[1] for line in findings] == [
        "zone",
        "cluster",
        "Workload",
        "JobSet",
        "service",
        "bucket",
        "service",
    ]
    assert "jobset/releases/download" in findings[3]
    assert "create serviceaccount default" in findings[4]
    assert "buckets create gs://b" in findings[5]


def test_a_finding_ends_the_launch_before_anything_is_created(desk):
    desk.fake(get=["", None], otherwise=["there"])
    desk.run("launch", *GKE, code=1)
    assert not creations(desk.calls())
    assert not any("apply" in words for words in desk.calls())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([CONFIG, *CLUSTER[2:], "--image", "i:1", "--workdir", "gs://b/r"], "--cluster is missing"),
        ([CONFIG, *CLUSTER, "--workdir", "gs://b/r"], "--image is missing"),
        ([*GKE, "--data", "/nfs"], "--data is gs://BUCKET"),
        ([*GKE, "--grace", "soon"], "--grace is a whole number"),
        ([*GKE, "--spot", "--flex-start"], "--spot and --flex-start exclude each other"),
        ([*GKE, "--reserved"], "say --reservation NAME"),
        ([*GKE, "--name", "a" * 39], "is too long"),
        ([*GKE, "--topology", "v6e:2x4"], "v6e:2x4 has one"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_run(desk, words, said):
    desk.fake()
    desk.run("launch", *words, code=2)
    assert said in desk.errors
    assert desk.calls() == []


def test_the_legacy_road_refuses_what_is_of_gke(desk):
    for words, said in (
        (["--topology", "tpu7x:4x4x4"], "ends before tpu7x"),
        (["--topology", "v5p:4x4x4", "--flex-start"], "are of GKE"),
    ):
        desk.run("legacy/create", "--zone", "z", *words, "--dry-run", code=2)
        assert said in desk.errors


# While it runs, and after


def test_stop_lets_the_pods_go_and_applying_again_brings_them_back(desk):
    *_, patch = desk.printed("stop", *CLUSTER, "--namespace", "team")
    assert patch[:5] == ["kubectl", "--namespace=team", "patch", "jobset", "jaxalign"]
    assert option(patch, "patch") == '{"spec": {"suspend": true}}'
    assert "\n  suspend: false\n" in desk.run("jobset", *GKE, "--dry-run")


def test_logs_are_those_of_one_host(desk):
    *_, logs = desk.printed("logs", *CLUSTER, "--slice", "1", "--worker", "3", "--lines", "9", "--follow")
    assert set(option(logs, "selector").split(",")) == {
        "jobset.sigs.k8s.io/jobset-name=jaxalign",
        "jobset.sigs.k8s.io/job-index=1",
        "batch.kubernetes.io/job-completion-index=3",
    }
    assert {"--tail=9", "--follow", "--container=jaxalign"} <= set(logs)
    desk.run("logs", *CLUSTER, "--worker", "16", "--dry-run", code=2)
    assert "0 to 15" in desk.errors


def test_fetch_needs_no_cluster(desk):
    made, rsync = desk.printed("fetch", "--workdir", "gs://b/run", "--to", "my run")
    assert (made, rsync[:5]) == (["mkdir", "-p", "my run"], ["gcloud", "storage", "rsync", "gs://b/run", "my run"])
    assert option(rsync, "exclude") == ".*/(policy|fit)/.*"
    assert not any("exclude" in word for word in desk.printed("fetch", "--workdir", "gs://b/run", "--all")[1])


@pytest.mark.parametrize(
    ("words", "answer", "deleted"), [([], "n\n", 0), ([], "", 0), ([], "y\n", 2), (["--yes"], "", 2)]
)
def test_teardown_asks(desk, words, answer, deleted):
    desk.fake(list=["jaxalign-0\n", "jaxalign-1\n"])
    desk.run("teardown", *CLUSTER, *words, answer=answer, code=0 if deleted else 2)
    gone = [words for words in desk.calls() if "delete" in words]
    assert [words[4] for words in gone if words[0] == "gcloud"] == ["jaxalign-0", "jaxalign-1"][:deleted]
    assert len(gone) == (deleted and deleted + 1)  # the JobSet first
    assert ("jaxalign-0 jaxalign-1 (v5p-128)" in desk.errors) == (not words)
