# The cluster of GKE: how gcloud and kubectl are told of it.
# Variables go from file to file, which the checker does not see:
# shellcheck shell=bash disable=SC2034,SC2154

# Sets region, where (flags of gcloud for what belongs to the cluster), project (flags of gcloud for the rest), pools (a node
# pool a slice: what is wired together).
describe_cluster() {
  local slice
  need cluster zone
  [[ -z $opt_runtime$opt_reserved ]] || die "--runtime and --reserved are of tpu/legacy; on GKE say --reservation NAME"
  look_up_topology
  region=${opt_zone%-*}
  project=()
  [[ -z $opt_project ]] || project+=(--project="$opt_project")
  where=(--cluster="$opt_cluster" --location="${opt_location:-$region}" "${project[@]}")
  pools=()
  for ((slice = 0; slice < opt_slices; slice++)); do pools+=("$opt_name-$slice"); done
  ((${#pools[-1]} <= 40)) || die "--name $opt_name is too long: node pool ${pools[-1]} would have more than 40 letters"
}

# Points kubectl at the cluster; what follows it in a script cannot meet another one.
get_credentials() {
  run gcloud container clusters get-credentials "$opt_cluster" --location="${opt_location:-$region}" "${project[@]}"
}

# One host's Pods: of the first attempt and of those after it.
pods_of() {
  printf 'jobset.sigs.k8s.io/jobset-name=%s,jobset.sigs.k8s.io/job-index=%s,batch.kubernetes.io/job-completion-index=%s' \
    "$opt_name" "$1" "$2"
}

# kubectl in the namespace of the run.
kube() { run kubectl --namespace="$opt_namespace" "$@"; }
