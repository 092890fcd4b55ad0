#!/usr/bin/env bash
# Copies this working tree to all hosts and installs it there: Python 3.11, the pinned packages, JAX for TPUs.
# Hosts that are running an experiment are left as they are.
#
#   tpu/legacy/setup.sh CONFIG --topology v5p:4x4x4 --zone us-east5-a [--dry-run]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib/all.sh"
source "$(dirname "${BASH_SOURCE[0]}")/pod.sh"
parse "$@"
describe_pod
need_config

# The config's whole folder: a config may import its neighbours.
archive=$root/build/tpu/jaxalign.tar.gz
parts=(pyproject.toml README.md LICENSE constraints jaxalign)
folder=${config%%/*}
has "${parts[*]}" "$folder" || parts+=("$folder")

run mkdir -p "$root/build/tpu"
run tar -C "$root" --exclude=__pycache__ -czf "$archive" "${parts[@]}"
for node in "${nodes[@]}"; do
  insist run gcloud compute tpus tpu-vm scp "$archive" "$here/legacy/host.sh" "$node:" "${place[@]}" --worker=all
done
on_all bash host.sh setup
