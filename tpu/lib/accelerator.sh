# Looks the topology up in accelerators.tsv: that of --topology, or the one that CONFIG names for itself.
# Variables go from file to file, which the checker does not see:
# shellcheck shell=bash disable=SC2034,SC2154

# Sets chips, hosts (of one slice), accelerator_type, runtime, gke_accelerator, gke_topology, machine.
look_up_topology() {
  [[ -n $opt_topology ]] || topology_of_config
  need topology
  local name known=''
  while IFS=$'\t' read -r name chips hosts accelerator_type runtime gke_accelerator gke_topology machine; do
    [[ $name == '#'* ]] && continue
    [[ $name == "$opt_topology" ]] && break
    [[ $accelerator_type == "$opt_topology" ]] && die "--topology $opt_topology is Google's name; here it is $name"
    known+=" $name"
  done < "$here/accelerators.tsv"
  [[ $name == "$opt_topology" ]] || die "unknown topology '$opt_topology'; there are:$known"
  chips_per_host=$((chips / hosts))
  runtime=${opt_runtime:-$runtime}
}

# Asks jaxalign, where it is installed ($JAXALIGN says how to call it), for the experiment's own topology and slices.
topology_of_config() {
  local jaxalign=${JAXALIGN:-jaxalign} resolved
  [[ -f $config ]] || return 0
  [[ -n ${JAXALIGN:-} || ! -x $root/.venv/bin/jaxalign ]] || jaxalign=$root/.venv/bin/jaxalign
  # shellcheck disable=SC2086  # $JAXALIGN may be several words
  resolved=$($jaxalign train "$config" --print-config "${overrides[@]}" 2> /dev/null) || return 0
  opt_topology=$(sed -n 's/^    "topology": "\(.*\)",\{0,1\}$/\1/p' <<< "$resolved")
  opt_slices=$(sed -n 's/^      "slices": \([0-9]*\),\{0,1\}$/\1/p' <<< "$resolved")
}
