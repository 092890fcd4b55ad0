#!/usr/bin/env bash
# Creates the queued resource if there is none and waits until it is ACTIVE. One that was taken away or that failed is
# deleted and requested again.
#
#   tpu/legacy/create.sh --topology v5p:4x4x4 --zone us-east5-a --spot [--slices 2] [--dry-run]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib/all.sh"
source "$(dirname "${BASH_SOURCE[0]}")/pod.sh"
parse "$@"
describe_pod

request() {
  local flags=(--accelerator-type="$accelerator_type" --runtime-version="$runtime")
  if ((opt_slices > 1)); then
    flags+=(--node-count="$opt_slices" --node-prefix="$opt_name")
  else
    flags+=(--node-id="$opt_name")
  fi
  [[ -z $opt_spot ]] || flags+=(--spot)
  [[ -z $opt_reserved ]] || flags+=(--reserved)
  [[ -z $opt_service_account ]] || flags+=(--service-account="$opt_service_account")
  run gcloud compute tpus queued-resources create "$opt_name" "${place[@]}" "${flags[@]}"
}

# A mistake shows at the first look; after that, failures are the network's.
look=pod_state before='' assumed='' requests=0
while :; do
  state=$($look "$assumed")
  look=pod_state_in_the_end assumed=ACTIVE
  [[ $state == "$before" ]] || note "$opt_name: ${state:-absent}"
  before=$state
  case $state in
    ACTIVE) break ;;
    '')
      ((requests++ <= opt_max_restarts)) || die "$opt_name failed $opt_max_restarts times (--max-restarts)"
      request
      ;;
    FAILED | SUSPENDED)
      # Neither comes back by itself. The full state says why: quota, capacity, preemption.
      run gcloud compute tpus queued-resources describe "$opt_name" "${place[@]}" --format="value(state)"
      run gcloud compute tpus queued-resources delete "$opt_name" "${place[@]}" --force --quiet
      pause
      ;;
    *) pause ;; # CREATING, ACCEPTED, WAITING_FOR_RESOURCES, PROVISIONING; SUSPENDING, DELETING
  esac
done
