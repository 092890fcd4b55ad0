#!/usr/bin/env bash
# Looks after a running experiment until it has finished: shows its log, starts it again after an interruption, requests the
# pod again after a preemption. The run goes on from its run directory. Ending this command does not end the experiment.
# Exit code: 0 finished, 1 the experiment failed by itself.
#
#   tpu/legacy/watch.sh CONFIG --topology v5p:4x4x4 --zone us-east5-a --workdir gs://BUCKET/RUN [--loss.eta 0.05 …] [--dry-run]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib/all.sh"
source "$(dirname "${BASH_SOURCE[0]}")/pod.sh"
parse "$@"
describe_pod
set_train_command

arguments=("$@")
restarts=0 # times the run was started again
line=1     # of the log, to be shown next
mixed=0    # looks in a row at which some hosts ran and some did not
silent=0   # looks in a row without an answer from all hosts

start_again() {
  local step
  note "starting again: $1"
  ((++restarts <= opt_max_restarts)) || die "started again $opt_max_restarts times (--max-restarts)"
  mixed=0 silent=0
  for step in "${@:2}"; do
    # What did not succeed is found and done again by the next look.
    "$here/legacy/$step.sh" "${arguments[@]}" || break
  done
  pause
}

show_log() {
  local text
  text=$(ask '' gcloud compute tpus tpu-vm ssh "${nodes[0]}" "${place[@]}" --worker=0 \
    --command="bash host.sh log $line") || return 0
  [[ -z $text ]] || printf '%s\n' "$text"
  line=$((line + $(printf '%s' "$text" | grep -c '' || true)))
}

any() { grep -Eq "$1" <<< "$states"; }

# Some hosts run and some do not. Those that wait for one that is gone are asked to commit and end, once; when patience has
# ended they are asked again, which ends them at once.
look_at_mixed() {
  if ((++mixed % patience == 1)) && any ' (failed [0-9]+|resume|orphaned|lost|absent)$'; then
    "$here/legacy/stop.sh" "${arguments[@]}" || note "not all hosts were asked to stop"
  fi
  pause
}

while :; do
  state=$(pod_state_in_the_end ACTIVE)
  if [[ $state != ACTIVE ]]; then
    line=1
    start_again "the pod is ${state:-absent}" create setup run
    continue
  fi
  if ! states=$(host_states) || (($(grep -c '' <<< "$states") < all_hosts)); then
    ((++silent <= patience)) || die "the pod is ACTIVE, but not all of its $all_hosts hosts answer"
    pause
    continue
  fi
  silent=0
  show_log
  if any ' running$'; then
    if any ' (failed [0-9]+|resume|orphaned|lost|absent|done)$'; then look_at_mixed; else mixed=0 && pause; fi
  elif any ' absent$'; then
    line=1
    start_again "a host was replaced" setup run
  elif any ' (resume|lost)$'; then
    # Whatever the other hosts ended with: they missed this one.
    start_again "it was interrupted" run
  elif any ' failed [0-9]+$'; then
    printf '%s\n' "$states" >&2
    note "the experiment failed; tpu/legacy/logs.sh shows why, and the pod is still there and billed"
    exit 1
  elif any ' orphaned$'; then
    start_again "hosts lost one another" run
  else
    break
  fi
done
note "finished: $opt_workdir. Next: tpu/legacy/fetch.sh, then tpu/legacy/teardown.sh (the pod is still there and billed)"
