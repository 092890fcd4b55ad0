"""A policy of another run, to compare with: references (`Guide`, `Mixture`) and the evaluation name some."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxalign.config.resolved import difference
from jaxalign.errors import CheckpointError, ConfigError
from jaxalign.storage.rundir import PolicySlot, RunDir, read_run


@dataclass(frozen=True)
class OfRun:
    """A policy that another run has committed; its model must be this run's."""

    run: str
    """the run's directory"""
    policy: int | None = None
    """its number, 0 the base; None: the last one that is there"""

    def problems(self) -> Iterable[str]:
        if self.policy is not None and self.policy < 0:
            yield f"policy must be a number from 0 on, got {self.policy}"

    def files(self) -> Mapping[str, str | os.PathLike[str]]:
        """The checksums of its arrays."""
        return {"integrity": self.slot().path / "integrity" / "data.json"}

    def slot(self) -> PolicySlot:
        """Where it lies. Raises ConfigError where it is not."""
        run = read_run(self.run)
        there = run.policies()
        number = max(there, default=0) if self.policy is None else self.policy
        if number not in there:
            raise ConfigError(f"policy {number}: {run.path} holds {', '.join(map(str, there)) or 'none yet'}")
        return run.policy(number)

    def check(self, own: RunDir, field: str) -> None:
        """Raises ConfigError or CheckpointError, naming the `field` that asks for it, unless it is there and a policy
        of the model that `own` trains."""
        try:
            theirs = read_run(self.run)
            self.slot()
        except (ConfigError, CheckpointError) as error:
            raise type(error)(f"{field}: {error}") from error
        if lines := difference(theirs.config.get("model", {}), own.config["model"]):
            shown = "".join(f"\n  model.{line}" for line in lines)
            raise ConfigError(f"{field}: the policies of {theirs.path} are of another model{shown}")


def check_all(components: Mapping[str, Any], own: RunDir) -> None:
    """As `OfRun.check`, of all those among an experiment's components, by dotted field."""
    for field, each in components.items():
        if isinstance(each, OfRun):
            each.check(own, field)
