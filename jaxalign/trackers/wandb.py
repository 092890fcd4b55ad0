"""Weights & Biases: one W&B run for a run directory, however many launches it takes.

Its id is made at the first launch and kept in RUN/wandb/run_id. The key comes from WANDB_API_KEY and is written
nowhere. Offline, each launch leaves a directory in RUN/wandb; `wandb sync RUN/wandb/offline-run-*` sends them, in their
order, as the one run they are.
"""

import os
import tempfile
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from etils import epath

from jaxalign.contracts.tracking import Line
from jaxalign.errors import ConfigError
from jaxalign.storage import durable


@dataclass(frozen=True)
class WandB:
    """The run in a W&B project; offline, in RUN/wandb until it is synced."""

    project: str
    """the W&B project, made if it is not there"""
    entity: str | None = None
    """user or team; None: the key's own default"""
    mode: Literal["online", "offline"] = "online"
    """whether points are sent as they come"""
    name: str | None = None
    """what W&B calls the run; None: a name of its own choice"""

    def open(self, run_dir: os.PathLike[str], config: Mapping[str, Any]) -> "WandBRun":
        """ConfigError where wandb is not installed, or no key is there to go online with."""
        try:
            import wandb
        except ImportError as error:
            raise ConfigError("trackers: WandB needs wandb; pip install 'jaxalign[wandb]'") from error
        if self.mode == "online" and not os.environ.get("WANDB_API_KEY"):
            raise ConfigError("trackers: WandB: WANDB_API_KEY is not set; set it, or mode='offline'")
        home = epath.Path(run_dir)
        local = home if durable.is_local(home) else tempfile.mkdtemp(prefix="jaxalign-wandb-")
        run = wandb.init(
            project=self.project,
            entity=self.entity,
            name=self.name,
            mode=self.mode,
            id=_run_id(home / "wandb"),
            resume="allow" if self.mode == "online" else None,  # offline there is nobody to ask what was there
            dir=os.fspath(local),
            config=dict(config),
            settings=wandb.Settings(console="off", quiet=True),  # what a person sees of the run stays as it is
        )
        return WandBRun(run, wandb.teardown)


class WandBRun:
    """The W&B run, as one launch continues it."""

    def __init__(self, run: Any, teardown: Callable[[], None]):
        self._run, self._teardown = run, teardown
        self._phases: set[str] = set()

    def log(self, line: Line) -> None:
        """A point of every metric's plot, over the lines of its phase."""
        axis = f"{line.phase}/nth"
        if line.phase not in self._phases:
            self._phases.add(line.phase)
            self._run.define_metric(f"{line.phase}/*", step_metric=axis)
        points = {f"{line.phase}/{name}": value for name, value in line.metrics.items()}
        self._run.log({**points, axis: line.nth}, step=line.order)

    def close(self) -> None:
        """Sends what is left, and waits for W&B's own process to have written it."""
        self._run.finish()
        self._teardown()  # finish() returns while that process may still hold the last points


def _run_id(home: epath.Path) -> str:
    """The run's id, made and kept where there is none yet."""
    place = home / "run_id"
    if not place.exists():
        durable.make_directory(home)
        durable.write_file(place, uuid.uuid4().hex[:16].encode())
    return place.read_text()


EXAMPLE = WandB(project="jaxalign", mode="offline")
