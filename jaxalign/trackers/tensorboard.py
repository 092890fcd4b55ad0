"""TensorBoard: event files in the run directory.

`tensorboard --logdir RUN/tensorboard` shows a plot a metric, over all iterations of its phase.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxalign.contracts.tracking import Line
from jaxalign.errors import ConfigError


@dataclass(frozen=True)
class TensorBoard:
    """Event files in RUN/tensorboard, one a launch."""

    def open(self, run_dir: os.PathLike[str], config: Mapping[str, Any]) -> "EventFile":
        """ConfigError where tensorboardX is not installed."""
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                "trackers: TensorBoard needs tensorboardX; pip install 'jaxalign[tensorboard]'"
            ) from error
        return EventFile(SummaryWriter(f"{os.fspath(run_dir)}/tensorboard"))


class EventFile:
    """What TensorBoard is told by one launch; it reaches the disk within two minutes."""

    def __init__(self, writer: Any):
        self._writer = writer

    def log(self, line: Line) -> None:
        """A point of every metric's plot."""
        for name, value in line.metrics.items():
            self._writer.add_scalar(f"{line.phase}/{name}", value, line.nth)

    def close(self) -> None:
        """Writes what is left."""
        self._writer.close()


EXAMPLE = TensorBoard()
