#!/usr/bin/env bash
# From a cluster of GKE to a running experiment: checks what can be checked, creates a node pool a slice, and starts CONFIG on
# all hosts as a JobSet, which Kubernetes starts again after interruptions. Every step can be given again: what is there
# already is left as it is, and a run goes on from its last commit. With --dry-run the commands of a first launch are printed.
#
#   tpu/launch.sh CONFIG --cluster CLUSTER --zone us-east5-a --image IMAGE:TAG --workdir gs://BUCKET/RUN
#                 [--service-account NAME] [--data gs://BUCKET/FOLDER --model.path /data/MODEL]
#                 [--topology v5p:4x4x4] [--slices 2] [--spot | --flex-start | --reservation NAME]
#                 [--loss.eta 0.05 …] [--dry-run]
#
# Without --topology, CONFIG is asked for its own. The road of the legacy Cloud TPU API: tpu/legacy/launch.sh.

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/all.sh"
parse "$@"
# What is wrong with the options is said before anything is paid for. Where jaxalign is not installed on this machine, fields
# of the experiment and its mesh are not looked at.
describe_cluster
need image
set_train_command
# CONFIG is asked once.
words=(--topology "$opt_topology" --slices "$opt_slices" "$@")
# Before the words: behind a lone -- all belong to the experiment.
"$here/jobset.sh" --dry-run "${words[@]}" > /dev/null

"$here/check.sh" "${words[@]}"
"$here/pools.sh" "${words[@]}"
[[ -z $dry_run ]] || printf "kubectl apply -f - <<'JOBSET'\n"
kubectl_pointed=1 "$here/jobset.sh" "${words[@]}"
[[ -z $dry_run ]] || printf 'JOBSET\n'
note "watch: tpu/logs.sh; ask it to commit and end: tpu/stop.sh; when it has finished: tpu/fetch.sh, then tpu/teardown.sh"
