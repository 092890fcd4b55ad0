"""The manifest of a JobSet, against what JobSet and Kubernetes accept."""

import json
from typing import Any

import pytest
from desk import CONFIG, ROOT, Desk

from jaxalign.errors import Interrupted

GKE = [CONFIG, "--topology", "v5p:4x4x4", "--slices", "2", "--image", "registry/jaxalign:1", "--workdir", "gs://b/run"]


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


@pytest.mark.parametrize("words", [[], ["--spot"], ["--megascale-env"], ["--model.path", 'a: "b" {c} # $(D) \\']])
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
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert container["command"][:7] == ["jaxalign", "train", CONFIG, "--workdir", "gs://b/run", "--distributed", "auto"]
    if "--model.path" in words:  # Kubernetes reads $$( as $(
        assert [word.replace("$$(", "$(") for word in container["command"][7:]] == words


def test_the_manifest_goes_on_after_interruptions_without_counting_them(desk):
    spec = manifest(desk)["spec"]
    (rule,) = spec["failurePolicy"]["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("RestartJobSetAndIgnoreMaxRestarts", ["PodFailurePolicy"])
    job = spec["replicatedJobs"][0]["template"]["spec"]
    exits, disrupted = job["podFailurePolicy"]["rules"]
    assert exits["action"] == disrupted["action"] == "FailJob"
    assert exits["onExitCodes"]["values"] == [Interrupted.exit_code]
    assert exits["onExitCodes"]["containerName"] == job["template"]["spec"]["containers"][0]["name"]
    assert disrupted["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    # What Kubernetes demands of a podFailurePolicy.
    assert (job["template"]["spec"]["restartPolicy"], job["backoffLimit"]) == ("Never", 0)


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
    desk.fake()
    desk.run("jobset", *GKE)
    (call,) = [json.loads(line) for line in (desk.bin / "calls.jsonl").read_text().splitlines()]
    assert call == {"words": ["kubectl", "apply", "-f", "-"], "stdin": printed}


def test_gke_does_not_join_slices_of_one_host(desk):
    desk.run("jobset", *GKE, "--topology", "v6e:2x4", "--dry-run", code=2)
    assert "v6e:2x4" in desk.errors
