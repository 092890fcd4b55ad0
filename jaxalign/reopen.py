"""A finished or running run, reopened to read from: its experiment, a machine for it, the policies a person means.

Neither the devices that trained it nor its training data need to be here.
"""

import dataclasses
import sys
from collections.abc import Sequence

from jaxalign.config.load import components, override, validate
from jaxalign.config.resolved import restore
from jaxalign.errors import ConfigError
from jaxalign.experiment import Experiment, as_of
from jaxalign.machine import Machine, Placement
from jaxalign.mesh.sharding import MeshShape
from jaxalign.models.low_rank import is_adapted
from jaxalign.models.model import Model, Source
from jaxalign.storage import inputs, pinned
from jaxalign.storage.rundir import RunDir


def experiment_of(run: RunDir) -> Experiment:
    """What the run computes, as of its first launch. ConfigError naming a component that is not installed here."""
    before = pinned.recall(run)
    experiment: Experiment = restore(run.config)
    return as_of(experiment, before.date) if before else experiment


def model_of(run: RunDir) -> Model:
    """The run's model, opened from its source as of the run's first launch; nothing else of the experiment is.

    Raises ConfigError when the source cannot be restored, or is not what it was: in shape, tokenizer and template, and
    where policies are differences from its weights in these too.
    """
    source = restore(run.config.get("model", {}), "experiment.model")
    if not isinstance(source, Source):
        raise ConfigError(f"{run.path / 'config.json'}: names no model")
    model, before = source.open(), pinned.recall(run)
    if before is None:
        return model
    before.check(inputs.of_values("model", model.source, model.fingerprints), run.path, {"model"})
    if is_adapted(model.abstract()):
        before.check(inputs.of_files("model.weights", model.files, before.inputs), run.path, {"model.weights"})
    return model.dated(before.date)


def check_judges(run: RunDir, experiment: Experiment) -> None:
    """Raises ConfigError when a file that the oracle or an eval reads is not what it was at the first launch."""
    before = pinned.recall(run)
    if before is not None:
        judges = inputs.reading(components(experiment))
        before.check(inputs.of_components(judges, before.inputs), run.path, judges)


def machine_of(run: RunDir, experiment: Experiment, options: Sequence[str] = ()) -> Machine:
    """The run's model on this machine's devices, placed as the run was but for `options` (--mesh.fsdp 1 …).

    A mesh that needs more devices than there are gives way to one of all devices here, which stderr is told.
    """
    placement = override(here(experiment.placement), options)
    validate(placement)
    return Machine(model_of(run), placement, experiment.seed)


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
