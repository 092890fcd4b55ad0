"""A finished or running run, reopened to read from: `reopen`.

Neither the devices that trained it nor its training data need to be here, and nobody is kept from training on.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from jaxalign.config.load import components, exchanged, load, override, own_classes, validate
from jaxalign.config.resolved import restore
from jaxalign.contracts.step_rule import StepRule
from jaxalign.errors import ConfigError
from jaxalign.experiment import Experiment, as_of
from jaxalign.machine import Machine, Placement
from jaxalign.mesh.sharding import MeshShape
from jaxalign.models.low_rank import is_adapted
from jaxalign.models.model import Model, Source
from jaxalign.rollouts.handover import NotRun, RunCommand
from jaxalign.step_rules.forward import Forward
from jaxalign.storage import inputs
from jaxalign.storage.pinned import Pinned, recall
from jaxalign.storage.rundir import RunDir, read_run


def reopen(path: str | os.PathLike[str], config: str | None = None) -> "Run":
    """The run at `path`. ConfigError if it holds none.

    `config` is the config file it was launched with: needed where that defines components of its own, and run.
    """
    loaded = load(config) if config else None
    commands = [each for each in components(loaded).values() if isinstance(each, RunCommand)] if config else []
    return Run(read_run(path), own_classes(loaded) if config else {}, commands)


class Run:
    """A run as it lies there: its config, inputs, policies and answers. What is not asked for is not opened.

    Raises ConfigError, when it comes to it, for a component that is not installed here and for an input that is not
    what it was at the run's first launch.
    """

    def __init__(self, directory: RunDir, own: Mapping[str, type], commands: Sequence[RunCommand] = ()):
        self.directory, self._own, self._commands = directory, own, commands

    @cached_property
    def pinned(self) -> Pinned | None:
        """What the run was made from; None while nothing is computed."""
        return recall(self.directory)

    @cached_property
    def experiment(self) -> Experiment:
        """What the run computes, as of its first launch. Whoever reads it tracks nothing, so that its trackers need not
        be here."""
        config = self.directory.config
        experiment = self._restored({**config, "trackers": []}, "experiment")
        if not isinstance(experiment, Experiment):
            raise ConfigError(f"{self.directory.path / 'config.json'}: names no experiment")
        return as_of(experiment, self.pinned.date) if self.pinned else experiment

    @cached_property
    def step_rule(self) -> StepRule:
        """How its iterations make steps; no other component need be here."""
        found = self._restored(self.directory.config.get("step_rule", {}), "experiment.step_rule") or Forward()
        if not isinstance(found, StepRule):
            raise ConfigError(f"{self.directory.path / 'config.json'}: names no step rule")
        return found

    @cached_property
    def model(self) -> Model:
        """The model, opened from its source as of the run's first launch; nothing else of the experiment is.

        It must be what it was in shape, tokenizer and template, and where policies are differences from its weights in
        these too.
        """
        source = self._restored(self.directory.config.get("model", {}), "experiment.model")
        if not isinstance(source, Source):
            raise ConfigError(f"{self.directory.path / 'config.json'}: names no model")
        model, before = source.open(), self.pinned
        if before is None:
            return model
        path = self.directory.path
        before.check(inputs.of_values("model", model.source, model.fingerprints), path, {"model"})
        if is_adapted(model.abstract()):
            before.check(inputs.of_files("model.weights", model.files, before.inputs), path, {"model.weights"})
        return model.dated(before.date)

    def machine(self, options: Sequence[str] = ()) -> Machine:
        """The model on this machine's devices, placed as the run was but for `options` (--mesh.fsdp 1 …).

        A mesh that needs more devices than there are gives way to one of all devices here, which stderr is told.
        """
        config = self.directory.config
        placement = self._restored(config.get("placement", {}), "experiment.placement")
        if not isinstance(placement, Placement):
            raise ConfigError(
                f"{self.directory.path / 'config.json'}: names no placement; another version made this run"
            )
        placement = here(placement, options)
        validate(placement)
        return Machine(self.model, placement, config["seed"])

    def check_judges(self) -> None:
        """Raises ConfigError when a file that the oracle or an eval reads is not what it was at the first launch."""
        if self.pinned is not None:
            judges = inputs.reading(components(self.experiment))
            self.pinned.check(inputs.of_components(judges, self.pinned.inputs), self.directory.path, judges)

    def policy_number(self, text: str) -> int:
        """The policy that a person means by `base`, `last` or a number. ConfigError names those that are on disk."""
        there = self.directory.policies()
        words = {"base": 0, "last": max(there, default=0)}
        number = words.get(text, int(text) if text.isdecimal() else None)
        if number is None or number not in there:
            listed = ", ".join(map(str, there)) or "none yet"
            raise ConfigError(
                f"policy {text!r}: {self.directory.path} holds {listed} (0 is the base, or say base or last)"
            )
        return number

    def _restored(self, part: Any, where: str) -> Any:
        """What config.json says; of programs that it would have run, those that a config file of one's own says too."""
        made = restore(part, where, self._own)
        if RunCommand.__name__ not in json.dumps(part):
            return made
        return exchanged(
            made, lambda each: NotRun(each) if isinstance(each, RunCommand) and each not in self._commands else each
        )


def here(placement: Placement, options: Sequence[str] = ()) -> Placement:
    """The placement with `options`, and with another mesh where its own cannot be built of the devices that are
    here: that of the options, or of all devices."""
    wanted = override(placement, options)
    validate(wanted)
    try:
        wanted.mesh.build()
        return wanted
    except ConfigError as error:
        fallback = dataclasses.replace(placement, mesh=MeshShape(rules=placement.mesh.rules))
        found = override(fallback, options)
        if found.mesh == fallback.mesh:
            print(f"{error}; reading with all devices here along fsdp", file=sys.stderr, flush=True)
        return found
