"""Makes jobset.schema.json: what a JobSet may contain, as far as tpu/jobset.yaml could need it.

    pip install kubernetes-validate==1.35.0 && python tests/launch/make_schemas.py

The Job inside it: the schema of `io.k8s.api.batch.v1.JobSpec` of Kubernetes 1.35 with all that it refers to, unknown
fields refused, less the descriptions and less affinity, volumes other than of drivers and hosts, and the like. The
JobSet around it: transcribed from JobSet 0.10's custom resource definition (repository kubernetes-sigs/jobset,
config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml, v1alpha2). Both are licensed under the Apache License 2.0
(Copyright The Kubernetes Authors).
"""

import json
import pathlib
import re
from typing import Any

import kubernetes_validate

SOURCE = pathlib.Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema/v1.35.0-local-strict"
TARGET = pathlib.Path(__file__).with_name("jobset.schema.json")
JOB = "io.k8s.api.batch.v1.JobSpec"
# Not referred to by the template: dropping them refuses them, and keeps the file small.
DROPPED = {
    "io.k8s.api.core.v1.PodSpec": {"affinity", "ephemeralContainers", "initContainers"},
    "io.k8s.api.core.v1.Container": {"livenessProbe", "readinessProbe", "startupProbe", "lifecycle"},
}
KEPT = {"io.k8s.api.core.v1.Volume": {"name", "csi", "hostPath"}}


def bare(node: Any) -> Any:
    """The schema without descriptions, its references pointing into this file."""
    if isinstance(node, list):
        return [bare(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {}
    for key, value in node.items():
        if key == "$ref":
            kept[key] = "#/$defs/" + value.rsplit("/", 1)[1]
        elif not (key == "description" and isinstance(value, str)) and not key.startswith("x-kubernetes"):
            kept[key] = bare(value)
    return kept


def closure(definitions: dict[str, Any], name: str, found: dict[str, Any]) -> None:
    """Adds a definition and all that it refers to."""
    if name in found:
        return
    schema = bare(definitions[name])
    for field in DROPPED.get(name, ()):
        del schema["properties"][field]
    for field in set(schema.get("properties", ())) - KEPT.get(name, set(schema.get("properties", ()))):
        del schema["properties"][field]
    found[name] = schema
    for other in re.findall(r'"#/\$defs/([^"]+)"', json.dumps(schema)):
        closure(definitions, other, found)


def fields(required: list[str], **properties: Any) -> dict[str, Any]:
    """An object with these fields and no others."""
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}


STRING = {"type": "string"}
WHOLE = {"type": "integer", "minimum": 0}
STRINGS = {"type": "array", "items": STRING}
WORDS = {"type": "object", "additionalProperties": STRING}
METADATA = fields([], name=STRING, namespace=STRING, labels=WORDS, annotations=WORDS)
RULE = fields(
    ["action", "name"],
    action={"enum": ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"]},
    name={"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
    onJobFailureReasons=STRINGS,
    onJobFailureMessagePatterns=STRINGS,
    targetReplicatedJobs=STRINGS,
)
JOBSET = fields(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"},
    metadata=METADATA | {"required": ["name"]},
    spec=fields(
        ["replicatedJobs"],
        suspend={"type": "boolean"},
        failurePolicy=fields(
            [],
            maxRestarts=WHOLE,
            restartStrategy={"enum": ["Recreate", "BlockingRecreate"]},
            rules={"type": "array", "items": RULE},
        ),
        network=fields(
            [], enableDNSHostnames={"type": "boolean"}, publishNotReadyAddresses={"type": "boolean"}, subdomain=STRING
        ),
        replicatedJobs={
            "type": "array",
            "items": fields(
                ["name", "template"],
                name=STRING,
                groupName=STRING,
                replicas=WHOLE,
                template=fields([], metadata=METADATA, spec={"$ref": f"#/$defs/{JOB}"}),
            ),
        },
    ),
)

if __name__ == "__main__":
    found: dict[str, Any] = {}
    closure(json.loads((SOURCE / "_definitions.json").read_text())["$defs"], JOB, found)
    comment = "Made by make_schemas.py from schemas of Kubernetes and JobSet, Apache License 2.0."
    schema = {"$comment": comment, **JOBSET, "$defs": dict(sorted(found.items()))}
    TARGET.write_text(json.dumps(schema, indent=1, sort_keys=True) + "\n")
