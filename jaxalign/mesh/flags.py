"""Options that XLA compiles the programs of a run with: a table by platform, each with its reason (`xla_flags.json`).

They are given with each program and not through the environment, so that what `jaxalign plan` compiles is what runs.
"""

import functools
import json
import warnings
from importlib import resources
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

FlagSet = Literal["overlap", "plain"]
"""The table, which lets communication run beside computation; or XLA's defaults."""

Options = dict[str, bool | int | str]


@functools.cache
def table() -> dict[str, dict[str, dict[str, Any]]]:
    """platform → flag → {"value", "why"}, and "instead_of": a flag whose place this one takes where the compiler does
    not take all those that take nobody's."""
    return json.loads(resources.files(__package__).joinpath("xla_flags.json").read_text())


def platform_of(device: jax.Device) -> str:
    """The kind of a device, "cpu", "gpu" or "tpu", whatever the vendor calls its platform."""
    return {"cuda": "gpu", "rocm": "gpu"}.get(device.platform, device.platform)


def options(flags: FlagSet, mesh: jax.sharding.Mesh) -> Options | None:
    """What to compile with for the devices of `mesh`; None: nothing particular."""
    if flags == "plain":
        return None
    flagged = table()[platform_of(mesh.devices.flat[0])]
    places = {entry["instead_of"] for entry in flagged.values() if "instead_of" in entry}
    first = {flag: entry["value"] for flag, entry in flagged.items() if "instead_of" not in entry}
    if not places or accepted(mesh, tuple(first.items())):
        return first or None
    return {flag: entry["value"] for flag, entry in flagged.items() if flag not in places}


@functools.cache
def accepted(mesh: jax.sharding.Mesh, flags: tuple[tuple[str, bool | int | str], ...]) -> bool:
    """Whether the compiler for the devices of `mesh` takes these flags together, asked with a small program: what it
    refuses depends on its version and on the generation, and is in no list."""
    split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    traced = jax.jit(lambda x: x + 1).trace(jax.ShapeDtypeStruct((8 * mesh.size, 128), np.float32, sharding=split))
    lowered = traced.lower(lowering_platforms=(platform_of(mesh.devices.flat[0]),))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that what was compiled for absent devices cannot be read from JAX's cache
            lowered.compile(compiler_options=dict(flags))
    except jax.errors.JaxRuntimeError:
        return False
    return True
