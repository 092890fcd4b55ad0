# The pod as Google Cloud's command line sees it: one queued resource, one TPU node a slice, several workers (hosts) a node.
# Variables go from file to file, which the checker does not see:
# shellcheck shell=bash disable=SC2034,SC2154

patience=20 # looks at something that should change

# Sets nodes (a name a slice), place (flags of every gcloud command) and all_hosts (how many there are).
describe_pod() {
  local slice
  need zone
  look_up_topology
  [[ $runtime != - ]] || die "the Cloud TPU API ends before ${opt_topology%%:*}: use GKE, tpu/launch.sh"
  [[ -z $opt_flex_start$opt_reservation$opt_data ]] || die "--flex-start, --reservation and --data are of GKE, tpu/launch.sh"
  all_hosts=$((hosts * opt_slices))
  place=(--zone="$opt_zone")
  [[ -z $opt_project ]] || place+=(--project="$opt_project")
  nodes=("$opt_name")
  if ((opt_slices > 1)); then
    nodes=()
    for ((slice = 0; slice < opt_slices; slice++)); do nodes+=("$opt_name-$slice"); done
  fi
}

# State of the queued resource, empty if there is none. `list` answers with nothing where `describe` would fail, so that an
# absent pod and a failing network are told apart. First argument: what --dry-run assumes.
pod_state() {
  ask "$1" gcloud compute tpus queued-resources list "${place[@]}" --filter="name~/$opt_name\$" \
    --format="value(state.state)"
}

# The same for a watcher, who may meet a network that fails for minutes.
pod_state_in_the_end() {
  local round
  for ((round = 0; round < patience; round++)); do pod_state "$1" && return; done
  return 1
}

# on NODE WORKER WORD...: runs the words on one worker of a node, or on `all`.
on() {
  run gcloud compute tpus tpu-vm ssh "$1" "${place[@]}" --worker="$2" --command="$(quoted "${@:3}")"
}

on_all() {
  local node
  for node in "${nodes[@]}"; do insist on "$node" all "$@"; done
}

# One line a host: jaxalign-host NAME STATE, as host.sh says it; a new host has no host.sh. Fails if a slice does not answer.
host_states() {
  local node assumed='' answer i
  for ((i = 0; i < hosts; i++)); do assumed+="jaxalign-host $i done"$'\n'; done
  for node in "${nodes[@]}"; do
    answer=$(ask "$assumed" gcloud compute tpus tpu-vm ssh "$node" "${place[@]}" --worker=all \
      --command="bash host.sh status || echo jaxalign-host new absent") || return
    grep '^jaxalign-host ' <<< "$answer" || return
  done
}
