"""How often a run calls each program, and so how long it takes and what it costs in chip-hours.

Every prompt is taken to have its pairs and every row to be of the longest length, so hours err high; what the oracle,
the evaluation and the first compilation take is not counted.
"""

from collections.abc import Mapping
from dataclasses import replace

import jax
import numpy as np

from jaxalign.experiment import Experiment
from jaxalign.machine import Machine
from jaxalign.rollouts.shares import given
from jaxalign.types import Preferences


def calls(experiment: Experiment, machine: Machine) -> Mapping[str, int]:
    """Calls of each program, by its name, in all iterations."""
    roller = machine.roller(experiment.rollout)
    groups = experiment.prompts_per_iteration * pairs_of_a_prompt(experiment, roller.bounds.samples)
    stored = len(experiment.reference.stored(experiment.loss.needs))
    iteration = {
        "train": experiment.fit.epochs * -(-groups // experiment.fit.batch_size),
        "logp": stored * -(-groups // machine.scorer.batch_size),
        **roller.calls(experiment.prompts_per_iteration),
    }
    return {name: experiment.iterations * count for name, count in iteration.items()}


def pairs_of_a_prompt(experiment: Experiment, m: int) -> int:
    """Groups that the experiment's pairing makes of one prompt with m different responses: asked of the pairing."""
    better = np.triu(np.full((m, m), 0.75, np.float32), 1) + np.tril(np.full((m, m), 0.25, np.float32), -1)
    prefer = (better + 0.5 * np.eye(m, dtype=np.float32))[None]
    one, each = np.ones((1, 1), np.int32), np.ones((1, m), np.int32)
    rollouts = replace(
        given(one, one[0], np.arange(m, dtype=np.int32)[None, :, None], each), texts=(tuple(map(str, range(m))),)
    )
    preferences = Preferences(("one",), (1.0,), prefer, prefer[:, None], scores=None)
    return len(experiment.pairing(rollouts, preferences, jax.random.key(0)).prompt)
