# shellcheck shell=bash
source "$(dirname "${BASH_SOURCE[0]}")/command.sh"
source "$(dirname "${BASH_SOURCE[0]}")/options.sh"
source "$(dirname "${BASH_SOURCE[0]}")/experiment.sh"
source "$(dirname "${BASH_SOURCE[0]}")/accelerator.sh"
source "$(dirname "${BASH_SOURCE[0]}")/cluster.sh"
