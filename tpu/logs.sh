#!/usr/bin/env bash
# Shows the log of one host of the attempt that runs: the last --lines (default 200), with --follow also what comes. --slice and
# --worker choose the host (default 0 and 0, the one that prints metrics). Attempts before: Cloud Logging, tpu/README.md.
#
#   tpu/logs.sh --cluster CLUSTER --zone us-east5-a --topology v5p:4x4x4 [--slice 1 --worker 3] [--lines 50] [--follow] [--dry-run]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/all.sh"
opt_slice=0 opt_worker=0 opt_lines=200 opt_follow=''
verb_values="slice worker lines" verb_switches="follow"
parse "$@"
describe_cluster
[[ $opt_slice =~ ^[0-9]+$ && $opt_slice -lt $opt_slices ]] || die "--slice is 0 to $((opt_slices - 1))"
[[ $opt_worker =~ ^[0-9]+$ && $opt_worker -lt $hosts ]] || die "--worker is 0 to $((hosts - 1))"
[[ $opt_lines =~ ^[0-9]+$ ]] || die "--lines is a whole number"

get_credentials
kube logs --selector="$(pods_of "$opt_slice" "$opt_worker")" --container=jaxalign --tail="$opt_lines" ${opt_follow:+--follow}
