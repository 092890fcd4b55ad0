#!/usr/bin/env bash
# Runs CONFIG on a GKE cluster as a JobSet: renders jobset.yaml and gives it to kubectl, to which the cluster is known. With
# --dry-run it prints the manifest. A JobSet of this name that has ended is deleted first: Kubernetes starts none again.
#
#   tpu/jobset.sh CONFIG --topology v5p:4x4x4 --slices 2 --image IMAGE:TAG --workdir gs://BUCKET/RUN [--spot]
#                 [--service-account NAME] [--data gs://BUCKET/FOLDER] [--local /dev/shm/jaxalign] [--grace SECONDS]
#                 [--loss.eta 0.05 …] [--dry-run]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/all.sh"
opt_max_restarts=10 # of failures; interruptions do not count
parse "$@"
look_up_topology
need image
set_train_command
((opt_slices == 1 || hosts > 1)) || die "GKE joins slices of several hosts only; $opt_topology has one"
tagged='[^/]*(:[^/]+|@sha256:[0-9a-f]+)$'
[[ $opt_image =~ $tagged && $opt_image != *:latest ]] ||
  die "--image $opt_image needs a tag other than latest, or a digest: a Pod that starts again must run the same code"
[[ -z $opt_local || ($opt_local == /?* && -z $opt_autopilot) ]] ||
  die "--local is an absolute path of the nodes, of clusters that are not Autopilot, not '$opt_local'"
[[ -z $opt_data || $opt_data == gs://?* ]] || die "--data is gs://BUCKET or gs://BUCKET/FOLDER, not '$opt_data'"

# A word as a JSON string, which is a YAML string too. Kubernetes would put a variable in the place of $(NAME).
json() {
  local word=${1//\\/\\\\}
  word=${word//"\$("/"\$\$("}
  word=${word//\"/\\\"}
  printf '"%s"' "${word//$'\t'/\\t}"
}

json_list() {
  local word text=''
  for word in "$@"; do text+="${text:+, }$(json "$word")"; done
  printf '[%s]' "$text"
}

# Without JAX_PLATFORMS JAX would go on with the CPU where the TPU does not start. libtpu reads the others; the coordinator is
# the first host of the first slice, under the name that JobSet gives it.
env_list() {
  local text='{name: PYTHONUNBUFFERED, value: "1"}, {name: JAX_PLATFORMS, value: "tpu,cpu"}'
  if [[ -n $opt_megascale_env ]]; then
    text+=", {name: MEGASCALE_NUM_SLICES, value: \"$opt_slices\"}"
    text+=", {name: MEGASCALE_COORDINATOR_ADDRESS, value: \"$opt_name-slice-0-0.$opt_name\"}"
    text+=", {name: MEGASCALE_SLICE_ID, valueFrom:"
    text+=" {fieldRef: {fieldPath: \"metadata.labels['jobset.sigs.k8s.io/job-index']\"}}}"
  fi
  printf '[%s]' "$text"
}

# What a host keeps for itself lies on its node: a JobSet that starts again has new Pods, and what was theirs is gone.
set_volumes() {
  annotations='{}' volumes='' mounts=''
  if [[ -n $opt_local ]]; then
    volumes="{name: local, hostPath: {path: $(json "$opt_local"), type: DirectoryOrCreate}}"
    mounts="{name: local, mountPath: $(json "$opt_local")}"
  fi
  [[ -z $opt_data ]] || set_data_volume
  volumes="[$volumes]" mounts="[$mounts]"
}

# GKE's driver for Cloud Storage mounts the bucket on every host alike. Its sidecar serves Pods that carry the annotation.
set_data_volume() {
  local bucket folder options=implicit-dirs
  bucket=${opt_data#gs://} && bucket=${bucket%%/*}
  folder=${opt_data#gs://"$bucket"} && folder=${folder#/} && folder=${folder%/}
  [[ -z $folder ]] || options+=",only-dir=$folder"
  annotations='{gke-gcsfuse/volumes: "true"}'
  volumes+="${volumes:+, }{name: data, csi: {driver: gcsfuse.csi.storage.gke.io, readOnly: true, volumeAttributes:"
  volumes+=" {bucketName: $(json "$bucket"), mountOptions: $(json "$options")}}}"
  mounts+="${mounts:+, }{name: data, mountPath: /data, readOnly: true}"
}

set_selector() {
  selector="cloud.google.com/gke-tpu-accelerator: $gke_accelerator, cloud.google.com/gke-tpu-topology: $gke_topology"
  [[ -z $opt_spot ]] || selector+=', cloud.google.com/gke-spot: "true"'
  [[ -z $opt_flex_start ]] || selector+=', cloud.google.com/gke-flex-start: "true"'
  # Nodes that pools.sh makes of a reservation are there already; a cluster that makes its own is told which to use.
  [[ -z $opt_reservation || -z $opt_autopilot ]] || selector+=", cloud.google.com/reservation-name: $(json "$opt_reservation")"
}

# Replaces @KEY@ in the text. The replacement is quoted: newer shells give & a meaning in it.
fill() { manifest=${manifest//"@$1@"/"$2"}; }

render() {
  manifest=$(< "$here/jobset.yaml")
  fill NAME "$opt_name"
  fill NAMESPACE "$opt_namespace"
  fill SLICES "$opt_slices"
  fill HOSTS "$hosts"
  fill CHIPS_PER_HOST "$chips_per_host"
  fill MAX_RESTARTS "$opt_max_restarts"
  fill GRACE "$opt_grace"
  fill ANNOTATIONS "$annotations"
  fill SERVICE_ACCOUNT "$(json "${opt_service_account:-default}")"
  fill NODE_SELECTOR "{$selector}"
  fill IMAGE "$(json "$opt_image")"
  fill ENV "$(env_list)"
  fill MOUNTS "$mounts"
  fill VOLUMES "$volumes"
  # Last, so that nothing in the user's words is taken for a key.
  fill COMMAND "$(json_list "${train[@]}")"
}

set_volumes
set_selector
render
if [[ -n $dry_run ]]; then
  printf '%s\n' "$manifest"
  exit
fi
# Given alone; launch.sh has pointed kubectl at the cluster already.
if [[ -n $opt_cluster && -z ${kubectl_pointed:-} ]]; then
  describe_cluster
  get_credentials
fi
state=$(kubectl --namespace="$opt_namespace" get jobset "$opt_name" --ignore-not-found --output='jsonpath={.status.terminalState}')
[[ -z $state ]] || kube delete jobset "$opt_name" --wait
kubectl apply -f - <<< "$manifest"
