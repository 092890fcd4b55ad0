#!/usr/bin/env bash
# Starts the experiment on all hosts, or continues it: it goes on from its run directory. It outlives this command and the
# connection; watch.sh looks after it.
#
#   tpu/legacy/run.sh CONFIG --topology v5p:4x4x4 --zone us-east5-a --workdir gs://BUCKET/RUN [--loss.eta 0.05 …] [--dry-run]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib/all.sh"
source "$(dirname "${BASH_SOURCE[0]}")/pod.sh"
parse "$@"
describe_pod
set_train_command

on_all bash host.sh start "${train[@]}"
