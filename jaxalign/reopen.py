"""A finished or running run, reopened to read from: its experiment, a machine for it, the policies a person means.

Neither the devices that trained it nor its training data need to be here.
"""

import dataclasses
import sys
from collections.abc import Sequence

from jaxalign.config.load import override, validate
from jaxalign.config.resolved import restore
from jaxalign.errors import ConfigError
from jaxalign.experiment import Experiment
from jaxalign.machine import Machine, Placement
from jaxalign.mesh.sharding import MeshShape
from jaxalign.storage.rundir import RunDir


def experiment_of(run: RunDir) -> Experiment:
    """What the run computes, from its config.json. ConfigError naming a component that is not installed here.

    Whoever reads a run tracks nothing, so its trackers need not be here.
    """
    return restore({**run.config, "trackers": []})


def machine_of(experiment: Experiment, options: Sequence[str] = ()) -> Machine:
    """The experiment's model on this machine's devices, placed as the run was but for `options` (--mesh.fsdp 1 …).

    A mesh that needs more devices than there are gives way to one of all devices here, which stderr is told.
    """
    placement = override(here(experiment.placement), options)
    validate(placement)
    return Machine(experiment.model.open(), placement, experiment.seed)


def here(placement: Placement) -> Placement:
    """The placement, with another mesh where its own cannot be built of the devices that are here."""
    try:
        placement.mesh.build()
    except ConfigError as error:
        print(f"{error}; reading with all devices here along fsdp", file=sys.stderr, flush=True)
        return dataclasses.replace(placement, mesh=MeshShape(rules=placement.mesh.rules))
    return placement


def policy_number(run: RunDir, text: str) -> int:
    """The policy that a person means by `base`, `last` or a number. ConfigError names those that are on disk."""
    there = run.policies()
    words = {"base": 0, "last": max(there, default=0)}
    number = words.get(text, int(text) if text.isdecimal() else None)
    if number is None or number not in there:
        listed = ", ".join(map(str, there)) or "none yet"
        raise ConfigError(f"policy {text!r}: {run.path} holds {listed} (0 is the base, or say base or last)")
    return number
