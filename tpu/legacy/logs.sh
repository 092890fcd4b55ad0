#!/usr/bin/env bash
# Shows the log of one host: the last --lines (default 200), with --follow also what comes. --slice and --worker choose the
# host (default 0 and 0, the one that prints metrics).
#
#   tpu/legacy/logs.sh --topology v5p:4x4x4 --zone us-east5-a [--slice 1 --worker 3] [--lines 50] [--follow] [--dry-run]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib/all.sh"
source "$(dirname "${BASH_SOURCE[0]}")/pod.sh"
opt_slice=0 opt_worker=0 opt_lines=200 opt_follow=''
verb_values="slice worker lines" verb_switches="follow"
parse "$@"
describe_pod
[[ $opt_slice =~ ^[0-9]+$ && $opt_slice -lt $opt_slices ]] || die "--slice is 0 to $((opt_slices - 1))"
[[ $opt_worker =~ ^[0-9]+$ && $opt_worker -lt $hosts ]] || die "--worker is 0 to $((hosts - 1))"
[[ $opt_lines =~ ^[0-9]+$ ]] || die "--lines is a whole number"

on "${nodes[$opt_slice]}" "$opt_worker" tail -n "$opt_lines" ${opt_follow:+-F} jaxalign/run.log
