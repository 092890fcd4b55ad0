# The options that all scripts share, so that one command line serves every verb.
# A script may add its own before it calls `parse`: verb_values="hours plan" verb_switches="all".
# Variables go from file to file, which the checker does not see:
# shellcheck shell=bash disable=SC2034,SC2154

config=''              # CONFIG as it lies in the repository
overrides=()           # options of the experiment, handed to `jaxalign train` as they are
dry_run=''             # --dry-run: print the commands, run none
opt_name=jaxalign      # --name: of the JobSet, the node pools, the workload or the queued resource
opt_topology=''        # --topology: v5p:4x4x4, as `jaxalign plan` calls it; default is that of CONFIG
opt_slices=''          # --slices: how many of it, connected by the data-centre network; default is 1, or that of CONFIG
opt_zone=''            # --zone: of the TPUs, such as us-east5-a
opt_project=''         # --project: default is that of gcloud's configuration
opt_workdir=''         # --workdir: gs://BUCKET/RUN, or a directory that all hosts mount
opt_service_account='' # --service-account: that the hosts act as; on GKE one of Kubernetes, which may use the bucket
opt_max_restarts=100   # --max-restarts: how often a run that ended too soon is started again (GKE: 10, of failures only)
opt_spot=''            # --spot: capacity that may be taken away
opt_yes=''             # --yes: do not ask before deleting
opt_cluster=''         # --cluster: of GKE
opt_location=''        # --location: of the cluster's control plane; default is the region of --zone
opt_namespace=default  # --namespace: of Kubernetes
opt_image=''           # --image: this repository installed (Dockerfile), with a tag other than latest, or a digest
opt_data=''            # --data: gs://BUCKET[/FOLDER] that every host of GKE sees as /data, read-only
opt_local=''           # --local: directory of a GKE node, /dev/shm/jaxalign, for checkpoints that each host keeps for itself
opt_grace=600          # --grace: seconds that a host of GKE has to commit when it is asked to stop
opt_disk=100           # --disk: GB of a GKE node's boot disk, which holds the image
opt_flex_start=''      # --flex-start: GKE waits for capacity and lends it for seven days at most
opt_reservation=''     # --reservation: capacity of this reservation, on GKE
opt_autopilot=''       # --autopilot: the cluster makes its own nodes
opt_megascale_env=''   # --megascale-env: set by hand what GKE sets for slices that work together
opt_runtime=''         # --runtime: legacy: another runtime version than that of accelerators.tsv
opt_poll=30            # --poll: legacy: seconds between two looks
opt_reserved=''        # --reserved: legacy: capacity of a reservation

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
here=$root/tpu
shared_values="name topology slices zone project workdir service-account max-restarts cluster location namespace image"
shared_values+=" data local grace disk reservation runtime poll"
shared_switches="dry-run spot yes flex-start autopilot megascale-env reserved"

usage() {
  sed -n '2,/^$/s/^#\{0,1\} \{0,1\}//p' "$0"
  printf 'Options of all scripts, so that a command line serves every verb:\n'
  sed -n "s/^[a-z_]*=[^#]*# --/  --/p" "$here/lib/options.sh"
  exit 0
}

has() { [[ " $1 " == *" $2 "* ]]; }

# Sets opt_* from the arguments. A name with a dot, such as --loss.eta, belongs to the experiment; so does all behind --.
parse() {
  local values="$shared_values ${verb_values:-}" switches="$shared_switches ${verb_switches:-}" key
  while (($#)); do
    key=${1#--} && key=${key%%=*}
    case $1 in
      -h | --help) usage ;;
      --)
        overrides+=("${@:2}")
        break
        ;;
      --*)
        if has "$switches" "$key" && [[ $1 != *=* ]]; then
          set_option "$key" yes
        elif has "$values" "$key" && [[ $1 == *=* ]]; then
          set_option "$key" "${1#*=}"
        elif has "$values" "$key"; then
          (($# > 1)) || die "$1 needs a value"
          set_option "$key" "$2"
          shift
        elif [[ $key == *.* ]]; then
          overrides+=("$1")
          if [[ $1 != *=* && $# -gt 1 && $2 != --* ]]; then
            overrides+=("$2")
            shift
          fi
        else
          die "unknown option $1; there are: $values $switches. Options of the experiment without a dot go behind --"
        fi
        ;;
      *)
        [[ -z $config ]] || die "one CONFIG only: '$config' and '$1'"
        config=$1
        ;;
    esac
    shift
  done
  check_options
}

set_option() {
  [[ -n $2 ]] || die "--$1 is empty"
  if [[ $1 == dry-run ]]; then dry_run=yes; else printf -v "opt_${1//-/_}" '%s' "$2"; fi
}

check_options() {
  local key
  if [[ -n $dry_run ]]; then # what is only to be looked at may leave them open
    opt_zone=${opt_zone:-REGION-a}
    opt_cluster=${opt_cluster:-CLUSTER}
    opt_image=${opt_image:-IMAGE:TAG}
    [[ -z $config ]] || opt_workdir=${opt_workdir:-gs://BUCKET/$(basename "$config" .py)}
  fi
  for key in slices max_restarts poll grace disk; do
    local name="opt_$key"
    [[ -z ${!name} || ${!name} =~ ^[0-9]+$ ]] || die "--${key//_/-} is a whole number, not '${!name}'"
  done
  ((${opt_slices:-1} > 0)) || die "--slices is at least 1"
  [[ $opt_name =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
    die "--name '$opt_name': at most 40 of a-z, 0-9 and -, beginning with a letter and not ending with -"
  local kinds=(${opt_spot:+--spot} ${opt_flex_start:+--flex-start} ${opt_reservation:+--reservation} ${opt_reserved:+--reserved})
  ((${#kinds[@]} < 2)) || die "${kinds[0]} and ${kinds[1]} exclude each other"
}

# Dies unless these options were given.
need() {
  local key name
  for key in "$@"; do
    name="opt_${key//-/_}"
    [[ -n ${!name} ]] || die "--$key is missing (--help lists all options)"
  done
}

# CONFIG as a path inside the repository, which is copied to the hosts as a whole: a config may import its neighbours.
need_config() {
  local absolute
  [[ -n $config ]] || die "CONFIG is missing: a config file in the repository"
  [[ -f $config ]] || die "no such config: $config"
  absolute=$(cd "$(dirname "$config")" && pwd)/$(basename "$config")
  [[ $absolute == "$root"/*/* ]] || die "$config must lie in a folder of $root, which is what the hosts get a copy of"
  config=${absolute#"$root"/}
}

need_workdir() {
  need workdir
  case $opt_workdir in
    gs://?*/?* | /*) ;;
    *) die "--workdir is gs://BUCKET/RUN or an absolute path that every host mounts, not '$opt_workdir'" ;;
  esac
  opt_workdir=${opt_workdir%/}
}
