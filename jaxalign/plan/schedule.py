"""How often a run calls each program, and so how long it takes and what it costs in chip-hours.

Every prompt is taken to have its pairs and every row to be of the longest length, so hours err high; what the oracle,
the evaluation and the first compilation take is not counted.
"""

from dataclasses import dataclass

import jax
import numpy as np

from jaxalign.experiment import Experiment
from jaxalign.mesh.sharding import full_rows
from jaxalign.rollouts.sample import Sample
from jaxalign.types import Preferences, Prompt, Rollouts


@dataclass(frozen=True)
class Calls:
    """Calls of each program in a whole run."""

    train: int
    logp: int
    rollout: int


def calls(experiment: Experiment, mesh: jax.sharding.Mesh) -> Calls:
    """Of all iterations."""
    spec, placement = experiment.rollout, experiment.placement
    assert isinstance(spec, Sample)
    groups = experiment.prompts_per_iteration * pairs_of_a_prompt(experiment)
    stored = len(experiment.reference.stored(experiment.loss.needs))

    def batches(count: int, size: int) -> int:
        return -(-count // full_rows(mesh, size))

    return Calls(
        train=experiment.iterations * experiment.fit.epochs * -(-groups // experiment.fit.batch_size),
        logp=experiment.iterations * stored * batches(groups, placement.score_batch_size),
        rollout=experiment.iterations
        * batches(experiment.prompts_per_iteration, spec.prompts_a_batch(placement.rollout_rows, mesh)),
    )


def pairs_of_a_prompt(experiment: Experiment) -> int:
    """Groups that the experiment's pairing makes of one prompt with different responses: asked of the pairing."""
    spec = experiment.rollout
    assert isinstance(spec, Sample)
    m = spec.samples
    better = np.triu(np.full((m, m), 0.75, np.float32), 1) + np.tril(np.full((m, m), 0.25, np.float32), -1)
    prefer = (better + 0.5 * np.eye(m, dtype=np.float32))[None]
    rollouts = Rollouts(
        prompts=(Prompt("one", ({"role": "user", "content": ""},)),),
        texts=(tuple(map(str, range(m))),),
        prompt_tokens=np.zeros((1, 1), np.int32),
        prompt_lengths=np.ones(1, np.int32),
        tokens=np.arange(m, dtype=np.int32)[None, :, None],
        lengths=np.ones((1, m), np.int32),
        finished=np.ones((1, m), bool),
        logps=np.zeros((1, m, 1), np.float32),
        weights=np.full((1, m), 1 / m, np.float32),
    )
    preferences = Preferences(("one",), (1.0,), prefer, prefer[:, None], scores=None)
    return len(experiment.pairing(rollouts, preferences, jax.random.key(0)).prompt)
