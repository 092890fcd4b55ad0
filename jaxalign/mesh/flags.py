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


def options(flags: FlagSet, mesh: jax.sharding.Mesh) -> Options | None:
    """What to compile with for the devices of `mesh`; None: nothing particular."""
    if flags == "plain":
        return None
    platform = {"cuda": "gpu", "rocm": "gpu"}.get(mesh.devices.flat[0].platform, mesh.devices.flat[0].platform)
    return {flag: entry["value"] for flag, entry in table()[platform].items()} or None
