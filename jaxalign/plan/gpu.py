"""GPUs that are not here: what XLA's CUDA plugin must be told of them to compile.

Without a GPU the plugin asks no driver: a target description (XLA's GpuTargetConfigProto, as text) says what the device
is, and the compiled program can be read but not run. The plugin's two wheels suffice (jax-cuda13-plugin and the
jax-cuda13-pjrt it requires); none of NVIDIA's libraries is needed, because products are not tuned and nothing runs.

The figures stand in `gpu_targets.json`, each with its source; multiprocessors and bandwidth are those of `chips.json`.
"""

import importlib
import json
import pkgutil
from functools import cache
from importlib.resources import files
from typing import Any

import jax

from jaxalign.errors import ConfigError, first_line
from jaxalign.plan.chips import Topology, chip
from jaxalign.plan.environment import environment

FAMILY = "hopper"
"""The entry of `gpu_targets.json` that all generations share."""

UNCHECKED = "JAX_SKIP_CUDA_CONSTRAINTS_CHECK"
"""Set while the plugin registers itself: it would otherwise ask for CUDA's libraries, which only running takes."""


@cache
def _table() -> dict[str, dict[str, dict[str, Any]]]:
    table: dict[str, dict[str, dict[str, Any]]] = json.loads(
        (files("jaxalign.plan") / "gpu_targets.json").read_text("utf-8")
    )
    return table


def generations() -> tuple[str, ...]:
    """Generations of chips that are GPUs."""
    return tuple(name for name in _table() if name != FAMILY)


def sources(generation: str) -> dict[str, tuple[str, str]]:
    """Field of a target → (source, note)."""
    fields = {**_table()[FAMILY], **_table()[generation]}
    return {name: (entry["source"], entry["note"]) for name, entry in fields.items()}


def target_config(generation: str) -> str:
    """The target description of a generation, as protocol buffer text: bytes, bytes/s, GHz and counts."""
    known = chip(generation)
    fields = {name: entry["value"] for name, entry in {**_table()[FAMILY], **_table()[generation]}.items()}
    fields |= {"core_count": known.cores, "memory_bandwidth": int(known.hbm_bandwidth)}
    lines = [f"  {name}: {value}" for name, value in fields.items()]
    capability = "  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }"  # sm_90a
    named = json.dumps(known.device_kind)
    return "\n".join(
        [
            "gpu_device_info {",
            *lines,
            capability,
            f"  name: {named}",
            "}",
            'platform_name: "CUDA"',
            "dnn_version_info { major: 9 minor: 12 }",  # the oldest that the plugin accepts when it runs
            f"device_description_str: {named}",
        ]
    )


def shape(topology: Topology) -> str:
    """What XLA calls the topology: slices x hosts of a slice x GPUs of a host.

    Raises ConfigError where more GPUs than a host has do not fill hosts.
    """
    gpus, per_host = topology.dims[0], chip(topology.generation).chips_per_host
    if gpus > per_host and gpus % per_host:
        raise ConfigError(f"{topology.name}: hosts have {per_host} GPUs: take a multiple of {per_host}")
    return f"{topology.slices}x{-(-gpus // per_host)}x{min(gpus, per_host)}"


def devices(topology: Topology) -> list[jax.Device]:
    """The devices of a GPU topology. Raises ConfigError with the command to install the plugin where it is absent."""
    from jax.experimental import topologies

    asked = {"topology": shape(topology), "target_config": target_config(topology.generation)}

    def described() -> Any:
        return topologies.get_topology_desc(platform="cuda", topology_name=topology.name, **asked)

    try:
        with environment({UNCHECKED: "1"}):
            try:
                found = described()
            except NotImplementedError:  # JAX looked for plugins before, and this one refused for want of libraries
                for plugin in plugins():
                    importlib.import_module(plugin).initialize()
                found = described()
    except NotImplementedError as error:
        raise ConfigError(
            f"plan: compiling for {topology.name} takes XLA's CUDA plugin, of the version of jax: "
            f"pip install 'jaxalign[plan-gpu]' jax-cuda13-plugin=={jax.__version__} ({error})"
        ) from error
    except Exception as error:  # the plugin's own kinds
        raise ConfigError(f"plan: {topology.name}: {first_line(error)}") from error
    return list(found.devices)


def plugins() -> list[str]:
    """Names of the installed CUDA plugins' modules."""
    try:
        package = importlib.import_module("jax_plugins")
    except ModuleNotFoundError:
        return []
    return [f"jax_plugins.{found.name}" for found in pkgutil.iter_modules(package.__path__) if "cuda" in found.name]
