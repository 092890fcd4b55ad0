"""Experiments with another feedback."""

import dataclasses
from typing import Any

from jaxalign.experiment import Experiment


def fed(experiment: Experiment, **changes: Any) -> Experiment:
    """The experiment with these settings of its feedback changed."""
    return dataclasses.replace(experiment, feedback=dataclasses.replace(experiment.feedback, **changes))
