#!/usr/bin/env bash
# Asks the experiment to stop: it commits what it has and ends. A second time it ends at once; nothing committed is lost.
#
#   tpu/legacy/stop.sh --topology v5p:4x4x4 --zone us-east5-a [--dry-run]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib/all.sh"
source "$(dirname "${BASH_SOURCE[0]}")/pod.sh"
parse "$@"
describe_pod

# Asked once, whether it succeeds or not: asking again means at once.
for node in "${nodes[@]}"; do on "$node" all bash host.sh stop; done
