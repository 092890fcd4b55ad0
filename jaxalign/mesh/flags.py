"""Options that XLA compiles the programs of a run with: a table by platform, each with its reason (`xla_flags.json`).

They are given with each program and not through the environment, so that what `jaxalign plan` compiles is what runs.
"""

import functools
import json
from importlib import resources
from typing import Literal

import jax

FlagSet = Literal["overlap", "plain"]
"""The table, which lets communication run beside computation; or XLA's defaults."""

Options = dict[str, bool | int | str]


@functools.cache
def table() -> dict[str, dict[str, dict[str, bool | int | str]]]:
    """platform → flag → {"value", "why"}."""
    return json.loads(resources.files(__package__).joinpath("xla_flags.json").read_text())


def platform_of(device: jax.Device) -> str:
    """The kind of a device, "cpu", "gpu" or "tpu", whatever the vendor calls its platform."""
    return {"cuda": "gpu", "rocm": "gpu"}.get(device.platform, device.platform)


def options(flags: FlagSet, mesh: jax.sharding.Mesh) -> Options | None:
    """What to compile with for the devices of `mesh`; None: nothing particular."""
    if flags == "plain":
        return None
    flagged = table()[platform_of(mesh.devices.flat[0])]
    return {flag: entry["value"] for flag, entry in flagged.items()} or None
