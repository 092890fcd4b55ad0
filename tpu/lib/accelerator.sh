# Looks the topology up in accelerators.tsv: that of --topology, or the one that CONFIG names for itself.
# Variables go from file to file, which the checker does not see:
# shellcheck shell=bash disable=SC2034,SC2154

# Sets chips, hosts (of one slice), devices_per_chip (of JAX), opt_slices, accelerator_type, runtime, gke_accelerator,
# gke_topology, machine.
look_up_topology() {
  [[ -n $opt_topology ]] || topology_of_config
  need topology
  opt_slices=${opt_slices:-1}
  local name known=''
  while IFS=$'\t' read -r name chips hosts accelerator_type runtime gke_accelerator gke_topology machine; do
    [[ $name == '#'* ]] && continue
    [[ $name == "$opt_topology" ]] && break
    [[ $accelerator_type == "$opt_topology" ]] && die "--topology $opt_topology is Google's name; here it is $name"
    known+=" $name"
  done < "$here/accelerators.tsv"
  [[ $name == "$opt_topology" ]] || die "unknown topology '$opt_topology'; there are:$known"
  chips_per_host=$((chips / hosts))
  devices_per_chip=1
  [[ $opt_topology != tpu7x:* ]] || devices_per_chip=2 # one a TensorCore
  runtime=${opt_runtime:-$runtime}
}

# Where CONFIG is asked, its topology is its own, and so are its slices unless --slices was given.
topology_of_config() {
  ask_config
  [[ -n $resolved ]] || return 0
  opt_topology=$(setting placement.topology)
  opt_slices=${opt_slices:-$(setting placement.mesh.slices)}
  [[ $opt_slices != -1 ]] || opt_slices=1
}
