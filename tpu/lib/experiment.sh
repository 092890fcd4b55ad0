# The experiment that CONFIG and its options come to: as jaxalign resolves it on this machine, where it is installed, and as the
# command that hosts are given.
# Variables go from file to file, which the checker does not see, and those in single quotes are of awk:
# shellcheck shell=bash disable=SC2034,SC2154,SC2016

resolved=''     # a line DOTTED.FIELD=JSON a setting; empty where jaxalign is not installed
config_asked='' # CONFIG is asked once

# Of JSON that is indented by two spaces, as --print-config prints it.
settings_of_json='{
  match($0, /^ */)
  depth = RLENGTH / 2
  value = substr($0, RLENGTH + 1)
  sub(/,$/, "", value)
  if (depth == 0 || value ~ /^[]}]/) next
  if (match(value, /^"[^"]*": /)) {
    key[depth] = substr(value, 2, RLENGTH - 4)
    value = substr(value, RLENGTH + 1)
  } else key[depth] = count[depth]++
  count[depth + 1] = 0
  if (value ~ /^[[{]$/) next
  path = key[1]
  for (level = 2; level <= depth; level++) path = path "." key[level]
  print path "=" value
}'

# Sets resolved ($JAXALIGN says how to call jaxalign). Dies where jaxalign refuses CONFIG or an option, behind what it says.
ask_config() {
  local call json
  [[ -z $config_asked${config_checked:-} && -f $config ]] || return 0
  config_asked=yes
  read -ra call <<< "${JAXALIGN:-jaxalign}"
  [[ -n ${JAXALIGN:-} || ! -x $root/.venv/bin/jaxalign ]] || call=("$root/.venv/bin/jaxalign")
  type -P "${call[0]}" > /dev/null || return 0
  json=$("${call[@]}" train "$config" --print-config "${overrides[@]}") ||
    die "${call[*]}, asked for the experiment, refuses $config with these options, as said above"
  resolved=$(awk "$settings_of_json" <<< "$json")
}

# The value of a setting, empty where there is none or null.
setting() { sed -n "/=null\$/d; s/^$1=\"\{0,1\}\([^\"]*\)\"\{0,1\}\$/\1/p" <<< "$resolved"; }

# Dies where the mesh is not of the devices of --topology and --slices; warns of files that hosts do not have. Scripts that
# this one calls do not ask again.
check_config() {
  [[ -z ${config_checked:-} && -n $resolved ]] || return 0
  check_mesh
  warn_of_paths
}

check_mesh() {
  local size sizes known=1 open='' devices=$((chips * devices_per_chip * opt_slices))
  size=$(setting placement.mesh.slices)
  [[ $size == "$opt_slices" || $size == -1 ]] ||
    die "--slices $opt_slices, but placement.mesh.slices is $size: give both"
  sizes=$(sed -n 's/^placement\.mesh\.[a-z]*=\(-\{0,1\}[0-9][0-9]*\)$/\1/p' <<< "$resolved")
  for size in $sizes; do
    if [[ $size == -1 ]]; then open=yes; else known=$((known * size)); fi
  done
  if [[ -n $open ]]; then
    ((devices % known == 0)) || die "placement.mesh does not divide the $devices devices of $opt_slices x $opt_topology"
  else
    ((devices == known)) || die "placement.mesh is of $known devices, and $opt_slices x $opt_topology has $devices"
  fi
}

warn_of_paths() {
  local name path
  while IFS='=' read -r name path; do
    path=${path#\"} && path=${path%\"}
    case $path in
      '' | null | /* | *://* | "${config%%/*}"/*) ;;
      *)
        printf '%s: warning: hosts have no %s (tpu/README.md, section 4): give --%s\n' \
          "$(basename "$0")" "$path" "$name" >&2
        ;;
    esac
  done < <(sed -n -e '/^[^=]*path=/p' -e '/^[^=]*\.run=/p' <<< "$resolved")
}

# The command of every host. With `--distributed auto` it finds the others by what the platform tells each of them.
set_train_command() {
  local distributed=auto
  ask_config
  need_config
  need_workdir
  check_config
  export config_checked=yes
  ((hosts * opt_slices > 1)) || distributed=off
  train=(jaxalign train "$config" --workdir "$opt_workdir" --distributed "$distributed" "${overrides[@]}")
  [[ -z $opt_local ]] || train+=(--placement.local_checkpoints "$opt_local")
}
