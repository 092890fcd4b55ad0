#!/usr/bin/env bash
# Fetches the run directory and the logs of all hosts to --to (default runs/NAME). Policies and training checkpoints stay
# in the bucket unless --all is given.
#
#   tpu/legacy/fetch.sh --topology v5p:4x4x4 --zone us-east5-a --workdir gs://BUCKET/RUN [--to DIR] [--all] [--dry-run]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib/all.sh"
source "$(dirname "${BASH_SOURCE[0]}")/pod.sh"
opt_to='' opt_all=''
verb_values="to" verb_switches="all"
parse "$@"
describe_pod
need_workdir
[[ $opt_workdir == gs://* ]] || die "--workdir $opt_workdir is not a bucket: copy it from where it is mounted"

# Hosts put their logs beside the run, not into it: one command a slice, however many hosts it has.
logs=$opt_workdir-logs
to=${opt_to:-runs/$opt_name}
if [[ $(pod_state ACTIVE) == ACTIVE ]]; then
  on_all bash host.sh upload "$logs"
else
  note "$opt_name is gone, and with it the logs that were not fetched before"
fi
flags=()
[[ -n $opt_all ]] || flags+=(--exclude='.*/(policy|fit)/.*')
run mkdir -p "$to/run" "$to/logs"
run gcloud storage rsync "$opt_workdir" "$to/run" "${flags[@]}" --recursive
run gcloud storage rsync "$logs" "$to/logs" --recursive
