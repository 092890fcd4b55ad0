#!/usr/bin/env bash
# From nothing to a running experiment: creates the pod, sets it up, runs CONFIG on all hosts and looks after it until it has
# finished, through preemptions. Every step can be given again: what is there already is left as it is.
#
#   tpu/legacy/launch.sh CONFIG --zone us-east5-a --workdir gs://BUCKET/RUN [--topology v5p:4x4x4] [--slices 2] [--spot]
#                 [--loss.eta 0.05 …] [--dry-run]
#
# Without --topology, CONFIG is asked for its own.

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib/all.sh"
source "$(dirname "${BASH_SOURCE[0]}")/pod.sh"
parse "$@"
# What is wrong with the options is said before anything is paid for; with fields of the experiment where jaxalign is installed.
describe_pod
set_train_command

# CONFIG is asked once.
for step in create setup run watch; do
  "$here/legacy/$step.sh" --topology "$opt_topology" --slices "$opt_slices" "$@"
done
