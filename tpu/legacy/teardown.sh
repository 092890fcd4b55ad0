#!/usr/bin/env bash
# Deletes the queued resource and its TPUs, running or not, and with them what is billed by the hour. Asks first unless
# --yes. The run directory stays in its bucket. To commit the last minutes of a run, stop.sh first.
#
#   tpu/legacy/teardown.sh --topology v5p:4x4x4 --zone us-east5-a [--yes] [--dry-run]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib/all.sh"
source "$(dirname "${BASH_SOURCE[0]}")/pod.sh"
parse "$@"
describe_pod

if [[ -z $dry_run && -z $opt_yes ]]; then
  printf 'Delete %s: %s x %s in %s? [y/N] ' "$opt_name" "$opt_slices" "$accelerator_type" "$opt_zone" >&2
  read -r answer || answer=''
  [[ $answer == [yY]* ]] || die "nothing was deleted"
fi
run gcloud compute tpus queued-resources delete "$opt_name" "${place[@]}" --force --quiet
