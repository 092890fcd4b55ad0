#!/usr/bin/env bash
# Fetches the run directory to --to (default runs/NAME). Policies and training checkpoints stay in the bucket unless --all is
# given. It needs the bucket alone: the cluster may be gone.
#
#   tpu/fetch.sh --workdir gs://BUCKET/RUN [--to DIR] [--all] [--dry-run]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib/all.sh"
opt_to='' opt_all=''
verb_values="to" verb_switches="all"
parse "$@"
need_workdir
[[ $opt_workdir == gs://* ]] || die "--workdir $opt_workdir is not a bucket: copy it from where it is mounted"

to=${opt_to:-runs/$opt_name}
flags=(--recursive)
[[ -z $opt_project ]] || flags+=(--project="$opt_project")
[[ -n $opt_all ]] || flags+=(--exclude='.*/(policy|fit)/.*')
run mkdir -p "$to"
run gcloud storage rsync "$opt_workdir" "$to" "${flags[@]}"
