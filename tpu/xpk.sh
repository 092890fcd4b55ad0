#!/usr/bin/env bash
# Runs CONFIG as a workload of xpk (https://github.com/AI-Hypercomputer/xpk) on a cluster that xpk made. --image holds this
# repository installed (Dockerfile).
#
#   tpu/xpk.sh CONFIG --topology v5p:4x4x4 --slices 2 --zone us-east5-a --cluster CLUSTER --image IMAGE
#              --workdir gs://BUCKET/RUN [--loss.eta 0.05 …] [--dry-run]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/all.sh"
parse "$@"
need image
describe_cluster
set_train_command
[[ -z $opt_spot$opt_flex_start$opt_reservation ]] || die "spot, flex-start or a reservation was chosen when the cluster was made"
[[ -z $opt_data ]] || die "xpk mounts buckets by itself: xpk storage create"
[[ -z $opt_local ]] || die "--local needs a directory of the nodes, which xpk does not mount; tpu/launch.sh without xpk does"

# 75: jaxalign was interrupted and the same command continues; 9: another host is gone.
run xpk workload create --cluster="$opt_cluster" --workload="$opt_name" --tpu-type="$accelerator_type" \
  --num-slices="$opt_slices" --docker-image="$opt_image" --max-restarts="$opt_max_restarts" \
  --restart-on-exit-codes=9,75 "${project[@]}" --zone="$opt_zone" --command="$(quoted "${train[@]}")"
