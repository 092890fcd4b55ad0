#!/usr/bin/env bash
# Creates the node pools that are not there: one a slice, all of its hosts together. They are billed until teardown.sh deletes
# them; those of --flex-start have no nodes until the run asks for them. On a cluster of --autopilot there is nothing to do.
#
#   tpu/pools.sh --cluster CLUSTER --zone us-east5-a --topology v5p:4x4x4 [--slices 2]
#                [--spot | --flex-start | --reservation NAME] [--dry-run]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/all.sh"
parse "$@"
describe_cluster
[[ -z $opt_autopilot ]] || exit 0

# Metadata of GKE and the scope of all APIs: what a Pod may do is said by its service account alone.
flags=(--node-locations="$opt_zone" --machine-type="$machine" --disk-size="$opt_disk" --scopes=cloud-platform)
flags+=(--workload-metadata=GKE_METADATA)
if [[ -n $opt_flex_start ]]; then
  flags+=(--flex-start --reservation-affinity=none --num-nodes=0 --enable-autoscaling --min-nodes=0 --max-nodes="$hosts")
else
  flags+=(--num-nodes="$hosts")
fi
[[ -z $opt_spot ]] || flags+=(--spot)
[[ -z $opt_reservation ]] || flags+=(--reservation-affinity=specific --reservation="$opt_reservation")

# TPU7x is wired together by a policy of its own, older generations by a flag.
wire_together() {
  local policy
  ((hosts > 1)) || return 0
  if [[ $gke_accelerator != tpu7x ]]; then
    flags+=(--tpu-topology="$gke_topology")
    return
  fi
  policy=jaxalign-tpu7x-$gke_topology
  flags+=(--placement-policy="$policy")
  policies=(gcloud compute resource-policies)
  [[ -n $(ask '' "${policies[@]}" list "${project[@]}" --filter="name=$policy AND region:$region" --format="value(name)") ]] ||
    run "${policies[@]}" create workload-policy "$policy" --region="$region" "${project[@]}" --type=HIGH_THROUGHPUT \
      --accelerator-topology="$gke_topology"
}

wire_together
for pool in "${pools[@]}"; do
  state=$(ask '' gcloud container node-pools list "${where[@]}" --filter="name=$pool" --format="value(status)")
  case $state in
    RUNNING | PROVISIONING | RECONCILING) note "$pool: $state" ;;
    '')
      run gcloud container node-pools create "$pool" "${where[@]}" "${flags[@]}" ||
        die "no $pool: without quota or capacity try another zone, --spot, --flex-start or --reservation"
      ;;
    *) die "$pool is $state: tpu/teardown.sh deletes it; gcloud container operations list says why" ;;
  esac
done
