#!/usr/bin/env bash
# Runs CONFIG on a GKE cluster as a JobSet: renders jobset.yaml and gives it to kubectl. --dry-run prints the manifest.
# --image holds this repository installed (Dockerfile). --service-account may use the bucket. --megascale-env sets by hand
# what GKE's webhook sets for slices that work together.
#
#   tpu/jobset.sh CONFIG --topology v5p:4x4x4 --slices 2 --image IMAGE --workdir gs://BUCKET/RUN [--spot]
#                 [--service-account NAME] [--grace SECONDS] [--megascale-env] [--loss.eta 0.05 …] [--dry-run]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/all.sh"
opt_image='' opt_grace=120 opt_megascale_env=''
opt_max_restarts=10 # of failures; interruptions do not count
verb_values="image grace" verb_switches="megascale-env"
parse "$@"
look_up_topology
need image
set_train_command
[[ $opt_grace =~ ^[0-9]+$ ]] || die "--grace is a number of seconds, not '$opt_grace'"
((opt_slices == 1 || hosts > 1)) || die "GKE joins slices of several hosts only; $opt_topology has one"

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

selector="cloud.google.com/gke-tpu-accelerator: $gke_accelerator, cloud.google.com/gke-tpu-topology: $gke_topology"
[[ -z $opt_spot ]] || selector+=', cloud.google.com/gke-spot: "true"'

# Replaces @KEY@ in the text. The replacement is quoted: newer shells give & a meaning in it.
fill() { manifest=${manifest//"@$1@"/"$2"}; }

manifest=$(< "$here/jobset.yaml")
fill NAME "$opt_name"
fill SLICES "$opt_slices"
fill HOSTS "$hosts"
fill CHIPS_PER_HOST "$chips_per_host"
fill MAX_RESTARTS "$opt_max_restarts"
fill GRACE "$opt_grace"
fill SERVICE_ACCOUNT "$(json "${opt_service_account:-default}")"
fill NODE_SELECTOR "{$selector}"
fill IMAGE "$(json "$opt_image")"
fill ENV "$(env_list)"
# Last, so that nothing in the user's words is taken for a key.
fill COMMAND "$(json_list "${train[@]}")"

if [[ -n $dry_run ]]; then
  printf '%s\n' "$manifest"
else
  kubectl apply -f - <<< "$manifest"
fi
