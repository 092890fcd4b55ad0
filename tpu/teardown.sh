#!/usr/bin/env bash
# Deletes the JobSet, running or not, and the node pools, which are what is billed by the hour. Asks first unless --yes. The run
# directory stays in its bucket, the cluster stays too. Hosts have --grace to commit.
#
#   tpu/teardown.sh --cluster CLUSTER --zone us-east5-a --topology v5p:4x4x4 [--slices 2] [--yes] [--dry-run]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/all.sh"
parse "$@"
describe_cluster

if [[ -z $dry_run && -z $opt_yes ]]; then
  printf 'Delete JobSet %s and node pools %s (%s) of cluster %s? [y/N] ' \
    "$opt_name" "${pools[*]}" "$accelerator_type" "$opt_cluster" >&2
  read -r answer || answer=''
  [[ $answer == [yY]* ]] || die "nothing was deleted"
fi
get_credentials
kube delete jobset "$opt_name" --ignore-not-found --wait
[[ -z $opt_autopilot ]] || exit 0
for pool in "${pools[@]}"; do
  [[ -z $(ask "$pool" gcloud container node-pools list "${where[@]}" --filter="name=$pool" --format="value(name)") ]] ||
    run gcloud container node-pools delete "$pool" "${where[@]}" --quiet
done
