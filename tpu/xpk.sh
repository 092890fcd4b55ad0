#!/usr/bin/env bash
# Runs CONFIG as a workload of xpk (https://github.com/AI-Hypercomputer/xpk) on a cluster that xpk made. --image holds this
# repository installed (Dockerfile).
#
#   tpu/xpk.sh CONFIG --topology v5p:4x4x4 --slices 2 --zone us-east5-a --cluster CLUSTER --image IMAGE
#              --workdir gs://BUCKET/RUN [--loss.eta 0.05 …] [--dry-run]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/all.sh"
opt_cluster='' opt_image=''
verb_values="cluster image"
parse "$@"
need cluster image
describe_pod
set_train_command
[[ -z $opt_spot && -z $opt_reserved ]] || die "--spot and --reserved were chosen when the cluster was made"

# 75: jaxalign was interrupted and the same command continues; 9: another host is gone.
run xpk workload create --cluster="$opt_cluster" --workload="$opt_name" --tpu-type="$accelerator_type" \
  --num-slices="$opt_slices" --docker-image="$opt_image" --max-restarts="$opt_max_restarts" \
  --restart-on-exit-codes=9,75 "${place[@]}" --command="$(quoted "${train[@]}")"
