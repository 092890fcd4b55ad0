#!/usr/bin/env bash
# Asks the experiment to stop: its Pods get SIGTERM, commit what they have within --grace and are gone. The node pools stay, and
# are billed. tpu/launch.sh or tpu/jobset.sh with the same words continues it.
#
#   tpu/stop.sh --cluster CLUSTER --zone us-east5-a --topology v5p:4x4x4 [--name NAME] [--dry-run]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/all.sh"
parse "$@"
describe_cluster
get_credentials
kube patch jobset "$opt_name" --type=merge --patch='{"spec": {"suspend": true}}'
