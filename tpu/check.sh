#!/usr/bin/env bash
# What stops a first launch on GKE, asked before it is paid for: the zone's machines, the cluster and what is installed on it,
# the image, the bucket and who may use it. Points kubectl at the cluster; changes nothing else. Ends with 1 if there is a
# finding. Quota cannot be asked for.
#
#   tpu/check.sh --cluster CLUSTER --zone us-east5-a --topology v5p:4x4x4 [--image IMAGE:TAG] [--workdir gs://BUCKET/RUN]
#                [--service-account NAME] [--data gs://BUCKET/FOLDER] [--dry-run]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/all.sh"
parse "$@"
describe_cluster
account=${opt_service_account:-default}
findings=0
docs=https://docs.cloud.google.com/kubernetes-engine/docs

# check WHAT FIX COMMAND…: fine if the command succeeds and answers with something.
check() {
  local answer
  if [[ -n $dry_run ]]; then
    quoted "${@:3}"
  elif answer=$("${@:3}" 2> /dev/null) && [[ -n $answer ]]; then
    printf 'ok       %s\n' "$1"
  else
    printf 'FINDING  %s: %s\n' "$1" "$2"
    ((++findings))
  fi
}

# What the cluster says of itself; location is a flag of its own here.
cluster_says() {
  check "$1" "$2" gcloud container clusters describe "$opt_cluster" --location="${opt_location:-$region}" "${project[@]}" \
    --format="value($3)"
}

check_bucket() {
  local bucket=${1#gs://}
  bucket=gs://${bucket%%/*}
  check "bucket $bucket" "gcloud storage buckets create $bucket --location=$region --uniform-bucket-level-access" \
    gcloud storage buckets describe "$bucket" "${project[@]}" --format="value(name)"
  check "service account $account is named by $bucket (or by its project, which is not looked at)" \
    "tpu/README.md, section 2, says the command" \
    gcloud storage buckets get-iam-policy "$bucket" "${project[@]}" --flatten="bindings[].members" \
    --filter="bindings.members~/ns/$opt_namespace/sa/$account\$" --format="value(bindings.role)"
}

check "zone $opt_zone has $machine" "gcloud compute machine-types list --filter=name=$machine shows where it is" \
  gcloud compute machine-types describe "$machine" --zone="$opt_zone" "${project[@]}" --format="value(name)"
cluster_says "cluster $opt_cluster" "tpu/README.md, section 2, creates one" name
cluster_says "Workload Identity, by which hosts use the bucket" \
  "gcloud container clusters update $opt_cluster --workload-pool=PROJECT.svc.id.goog" workloadIdentityConfig.workloadPool
[[ -z $opt_data ]] || cluster_says "driver that mounts buckets" \
  "gcloud container clusters update $opt_cluster --update-addons=GcsFuseCsiDriver=ENABLED" \
  addonsConfig.gcsFuseCsiDriverConfig.enabled
get_credentials
rules=properties.spec.properties.failurePolicy.properties.rules.items.properties
check "JobSet 0.10 or newer" \
  "kubectl apply --server-side -f https://github.com/kubernetes-sigs/jobset/releases/download/v0.10.1/manifests.yaml" \
  kubectl get crd jobsets.jobset.x-k8s.io \
  --output="jsonpath={.spec.versions[?(@.name==\"v1alpha2\")].schema.openAPIV3Schema.$rules.onJobFailureMessagePatterns.type}"
check "service account $account of $opt_namespace" "kubectl --namespace=$opt_namespace create serviceaccount $account" \
  kubectl --namespace="$opt_namespace" get serviceaccount "$account" --output=name
[[ $opt_image != *-docker.pkg.dev/* ]] || check "image $opt_image" "docker build, docker push: tpu/README.md, section 2" \
  gcloud artifacts docker images describe "$opt_image" "${project[@]}" --format="value(image_summary.digest)"
[[ $opt_workdir != gs://* ]] || check_bucket "$opt_workdir"
[[ -z $opt_data ]] || check_bucket "$opt_data"
((findings == 0)) || {
  printf '%s finding(s); %s/how-to/tpus\n' "$findings" "$docs" >&2
  exit 1
}
