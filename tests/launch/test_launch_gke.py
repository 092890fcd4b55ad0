"""The manifest of a JobSet, against what JobSet and Kubernetes accept."""

import json
import re
from typing import Any

import pytest
from desk import CONFIG, GKE, ROOT, TOPOLOGIES, Desk

from jaxalign.errors import Interrupted


def manifest(desk: Desk, *words: str) -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load(desk.run("jobset", *GKE, *words, "--dry-run"))


def pod_of(jobset: dict[str, Any]) -> dict[str, Any]:
    (replicated,) = jobset["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def schema():
    """Refuses a manifest that is not a JobSet; see launch/make_schemas.py."""
    jsonschema = pytest.importorskip("jsonschema")
    return jsonschema.Draft202012Validator(json.loads((ROOT / "tests/launch/jobset.schema.json").read_text()))


WORDS = [
    [],
    ["--spot"],
    ["--flex-start"],
    ["--megascale-env"],
    ["--data", "gs://weights/llama"],
    ["--local", "/dev/shm/jaxalign"],
    ["--model.path", 'a: "b" {c} # $(D) \\'],
]


@pytest.mark.parametrize("words", WORDS, ids=lambda words: (words or ["--plain"])[0])
def test_the_manifest_is_a_jobset(desk, schema, words):
    jobset = manifest(desk, *words)
    assert [error.message for error in schema.iter_errors(jobset)] == []
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert (replicated["replicas"], job["parallelism"], job["completions"]) == (2, 16, 16)
    pod = pod_of(jobset)
    selector = pod["nodeSelector"]
    assert selector["cloud.google.com/gke-tpu-accelerator"] == "tpu-v5p-slice"
    assert selector["cloud.google.com/gke-tpu-topology"] == "4x4x4"
    assert ("cloud.google.com/gke-spot" in selector) == (words == ["--spot"])
    assert ("cloud.google.com/gke-flex-start" in selector) == (words == ["--flex-start"])
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert container["command"][:7] == ["jaxalign", "train", CONFIG, "--workdir", "gs://b/run", "--distributed", "auto"]
    if "--model.path" in words:  # Kubernetes reads $$( as $(
        assert [word.replace("$$(", "$(") for word in container["command"][7:]] == words


@pytest.mark.parametrize("name", [name for name in TOPOLOGIES if int(TOPOLOGIES[name][1]) <= 64])
def test_a_slice_is_a_job_of_all_its_hosts_and_they_have_all_its_chips(desk, schema, name):
    words = [CONFIG, "--topology", name, "--image", "i:1", "--workdir", "gs://b/run", "--dry-run"]
    yaml = pytest.importorskip("yaml")
    jobset = yaml.safe_load(desk.run("jobset", *words))
    assert schema.is_valid(jobset)
    chips, hosts, _, _, accelerator, topology, _ = TOPOLOGIES[name]
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job, pod = replicated["template"]["spec"], pod_of(jobset)
    assert replicated["replicas"] == 1
    assert job["completions"] == job["parallelism"] == int(hosts)
    assert job["parallelism"] * pod["containers"][0]["resources"]["limits"]["google.com/tpu"] == int(chips)
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": accelerator,
        "cloud.google.com/gke-tpu-topology": topology,
    }
    # One host has nobody to find.
    assert pod["containers"][0]["command"][-1] == ("off" if hosts == "1" else "auto")


# What is done after a failure


def rules_of(job: dict[str, Any]) -> list[dict[str, Any]]:
    return job["podFailurePolicy"]["rules"]


def action(spec: dict[str, Any], code: int = 0, disrupted: bool = False) -> str:
    """What JobSet does where a host of the run ends with `code`, or its node goes, by its documentation."""
    job = spec["replicatedJobs"][0]["template"]["spec"]
    reason, message = "BackoffLimitExceeded", "Job has reached the specified backoff limit"
    for index, rule in enumerate(rules_of(job)):
        if code in rule.get("onExitCodes", {}).get("values", []) or (disrupted and "onPodConditions" in rule):
            words = f"failed with exit code {code}" if "onExitCodes" in rule else "has condition DisruptionTarget"
            reason = "PodFailurePolicy"
            message = f"Container jaxalign for pod default/x {words} matching {rule['action']} rule at index {index}"
            break
    for rule in spec["failurePolicy"]["rules"]:
        patterns = rule.get("onJobFailureMessagePatterns", [".*"])
        if reason in rule["onJobFailureReasons"] and any(re.fullmatch(pattern, message) for pattern in patterns):
            return rule["action"]
    return "RestartJobSet"


def test_every_exit_code_is_answered_as_the_readme_says(desk):
    """A code that is new is in no row of the table, and fails here."""
    sources = [file.read_text() for file in (ROOT / "jaxalign").rglob("*.py")]
    codes = {int(code) for text in sources for code in re.findall(r"^    exit_code = (\d+)$", text, re.MULTILINE)}
    assert len(codes) >= 12
    spec = manifest(desk)["spec"]
    done = {"RestartJobSetAndIgnoreMaxRestarts": "again", "RestartJobSet": "again, counted", "FailJobSet": "never"}
    rows = re.findall(r"^\| ([\d, ]+) \| .* \| ([a-z, ]+) \|$", (ROOT / "tpu/README.md").read_text(), re.MULTILINE)
    said = {int(code): what for each, what in rows for code in each.split(",")}
    assert said == {0: "done"} | {code: done[action(spec, code)] for code in codes}
    assert said[Interrupted.exit_code] == "again"


def test_nodes_that_go_are_not_counted_and_crashes_are(desk):
    spec = manifest(desk)["spec"]
    assert action(spec, disrupted=True) == "RestartJobSetAndIgnoreMaxRestarts"
    for code in (134, 137, 139, 143):  # abort, memory, segmentation fault, a second SIGTERM
        assert action(spec, code) == "RestartJobSet"
    assert spec["failurePolicy"]["maxRestarts"] == 10


def test_the_policies_are_what_kubernetes_demands_of_them(desk):
    spec = manifest(desk)["spec"]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    assert (job["template"]["spec"]["restartPolicy"], job["backoffLimit"]) == ("Never", 0)
    for rule in rules_of(job):
        if "onExitCodes" in rule:
            values = rule["onExitCodes"]["values"]
            assert values == sorted(set(values))
            assert 0 not in values
            assert rule["onExitCodes"]["containerName"] == job["template"]["spec"]["containers"][0]["name"]
    # All hosts of an attempt are gone before those of the next one look for one another.
    assert spec["failurePolicy"]["restartStrategy"] == "BlockingRecreate"
    assert spec["network"] == {"enableDNSHostnames": True, "publishNotReadyAddresses": True}


def test_hosts_have_time_to_commit(desk):
    assert pod_of(manifest(desk))["terminationGracePeriodSeconds"] == 600
    assert pod_of(manifest(desk, "--grace", "60"))["terminationGracePeriodSeconds"] == 60


def test_every_host_sees_the_data_read_only(desk):
    jobset = manifest(desk, "--data", "gs://weights/models/llama 3/")
    pod = pod_of(jobset)
    (volume,) = pod["volumes"]
    assert volume["csi"]["driver"] == "gcsfuse.csi.storage.gke.io"
    assert volume["csi"]["volumeAttributes"] == {
        "bucketName": "weights",
        "mountOptions": "implicit-dirs,only-dir=models/llama 3",
    }
    (mount,) = pod["containers"][0]["volumeMounts"]
    assert (mount["name"], mount["mountPath"]) == (volume["name"], "/data")
    assert mount["readOnly"] is volume["csi"]["readOnly"] is True
    template = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    assert template["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
    (whole,) = pod_of(manifest(desk, "--data", "gs://weights"))["volumes"]
    assert whole["csi"]["volumeAttributes"] == {"bucketName": "weights", "mountOptions": "implicit-dirs"}


def test_a_host_keeps_its_checkpoints_on_its_node(desk):
    pod = pod_of(manifest(desk, "--local", "/dev/shm/near", "--data", "gs://weights"))
    volumes = {each["name"]: each for each in pod["volumes"]}
    assert volumes["local"]["hostPath"] == {"path": "/dev/shm/near", "type": "DirectoryOrCreate"}
    (container,) = pod["containers"]
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    assert mounts == {"local": "/dev/shm/near", "data": "/data"}
    assert container["command"][-2:] == ["--placement.local_checkpoints", "/dev/shm/near"]


@pytest.mark.parametrize("words", [["--local", "near"], ["--local", "/dev/shm/near", "--autopilot"]])
def test_a_directory_that_nodes_do_not_have_is_refused(desk, words):
    desk.run("jobset", *GKE, "--image", "r.io/a/jaxalign:1", *words, "--dry-run", code=2)
    assert "absolute path of the nodes" in desk.errors


@pytest.mark.parametrize(
    ("image", "fine"),
    [
        ("r.io/a/jaxalign:1", True),
        ("r.io/a/jaxalign@sha256:" + "0a" * 32, True),
        ("r.io/a/jaxalign:latest", False),
        ("r.io/a/jaxalign", False),
        ("r.io:5000/jaxalign", False),
    ],
)
def test_an_image_that_may_change_between_restarts_is_refused(desk, image, fine):
    desk.run("jobset", *GKE, "--image", image, "--dry-run", code=0 if fine else 2)
    assert fine or "needs a tag" in desk.errors


def test_megascale_names_the_first_host_of_the_first_slice(desk):
    env = {
        entry["name"]: entry
        for entry in pod_of(manifest(desk, "--megascale-env", "--name", "run-7"))["containers"][0]["env"]
    }
    assert env["MEGASCALE_NUM_SLICES"]["value"] == "2"
    assert env["MEGASCALE_COORDINATOR_ADDRESS"]["value"] == "run-7-slice-0-0.run-7"
    path = env["MEGASCALE_SLICE_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert path == "metadata.labels['jobset.sigs.k8s.io/job-index']"


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("apiVersion", "jobset.x-k8s.io/v1"),
        ("spec.failurePolicy.maxRestarts", "10"),
        ("spec.failurePolicy.rules.0.action", "Restart"),
        ("spec.replicatedJobs.0.replicas", "2"),
        ("spec.replicatedJobs.0.template.spec.paralellism", 16),
        ("spec.replicatedJobs.0.template.spec.podFailurePolicy.rules.0.onExitCodes.values.0", "75"),
        ("spec.replicatedJobs.0.template.spec.template.spec.nodeSelector", []),
        ("spec.replicatedJobs.0.template.spec.template.spec.containers.0.comand", []),
        ("spec.replicatedJobs.0.template.spec.template.spec.containers.0.ports.0.containerPort", "8471"),
    ],
)
def test_a_broken_manifest_is_refused(desk, schema, place, value):
    jobset = manifest(desk)
    *path, last = [int(key) if key.isdigit() else key for key in place.split(".")]
    node = jobset
    for key in path:
        node = node[key]
    node[last] = value
    assert not schema.is_valid(jobset)


def test_kubectl_is_given_the_manifest_that_was_printed(desk):
    printed = desk.run("jobset", *GKE, "--dry-run")
    desk.fake(get=[""])
    desk.run("jobset", *GKE)
    pointed, looked, applied = [json.loads(line) for line in (desk.bin / "calls.jsonl").read_text().splitlines()]
    assert pointed["words"][:4] == ["gcloud", "container", "clusters", "get-credentials"]
    assert looked["words"][:5] == ["kubectl", "--namespace=default", "get", "jobset", "jaxalign"]
    assert applied == {"words": ["kubectl", "apply", "-f", "-"], "stdin": printed}


@pytest.mark.parametrize("ended", ["Failed", "Completed"])
def test_a_jobset_that_has_ended_is_replaced(desk, ended):
    desk.fake(get=[ended])
    desk.run("jobset", *GKE)
    assert [words[2] for words in desk.calls()] == ["clusters", "get", "delete", "-f"]


def test_gke_does_not_join_slices_of_one_host(desk):
    desk.run("jobset", *GKE, "--topology", "v6e:2x4", "--dry-run", code=2)
    assert "v6e:2x4" in desk.errors
