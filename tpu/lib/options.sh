# The options that all scripts share, so that one command line serves every verb.
# A script may add its own before it calls `parse`: verb_values="hours plan" verb_switches="all".
# Variables go from file to file, which the checker does not see:
# shellcheck shell=bash disable=SC2034,SC2154

config=''              # CONFIG as it lies in the repository
overrides=()           # options of the experiment, handed to `jaxalign train` as they are
dry_run=''             # --dry-run: print the commands, run none
opt_name=jaxalign      # --name: of the queued resource, the JobSet or the workload
opt_topology=''        # --topology: v5p:4x4x4, as `jaxalign plan` calls it
opt_slices=1           # --slices: how many of it, connected by the data-centre network
opt_zone=''            # --zone: such as us-east5-a
opt_project=''         # --project: default is that of gcloud's configuration
opt_workdir=''         # --workdir: gs://BUCKET/RUN, or a directory that all hosts mount
opt_runtime=''         # --runtime: another runtime version than that of accelerators.tsv
opt_service_account='' # --service-account: that the hosts act as; on GKE a Kubernetes account
opt_max_restarts=100   # --max-restarts: how often a preempted or interrupted run is started again
opt_poll=30            # --poll: seconds between two looks
opt_spot=''            # --spot: capacity that may be taken away
opt_reserved=''        # --reserved: capacity of a reservation
opt_yes=''             # --yes: do not ask before deleting

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
here=$root/tpu
shared_values="name topology slices zone project workdir runtime service-account max-restarts poll"
shared_switches="dry-run spot reserved yes"

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
    opt_zone=${opt_zone:-ZONE}
    [[ -z $config ]] || opt_workdir=${opt_workdir:-gs://BUCKET/$(basename "$config" .py)}
  fi
  for key in slices max_restarts poll; do
    local name="opt_$key"
    [[ ${!name} =~ ^[0-9]+$ ]] || die "--${key//_/-} is a whole number, not '${!name}'"
  done
  ((opt_slices > 0)) || die "--slices is at least 1"
  [[ $opt_name =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
    die "--name '$opt_name': at most 40 of a-z, 0-9 and -, beginning with a letter and not ending with -"
  [[ -z $opt_spot || -z $opt_reserved ]] || die "--spot and --reserved exclude each other"
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

# The command of every host. With `--distributed auto` it finds the others by what the platform tells each of them.
set_train_command() {
  local distributed=auto
  need_config
  need_workdir
  ((hosts * opt_slices > 1)) || distributed=off
  train=(jaxalign train "$config" --workdir "$opt_workdir" --distributed "$distributed" "${overrides[@]}")
}
