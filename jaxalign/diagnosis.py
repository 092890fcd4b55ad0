"""What an iteration's own data says of it, before the fit: responses, preferences, and the pairs made of them."""

import numpy as np

from jaxalign.evals.cycles import cycle_metrics
from jaxalign.judging import note_metrics
from jaxalign.pairs import pairing_metrics
from jaxalign.types import Groups, Metrics, Preferences, Rollouts


def diagnose(rollouts: Rollouts, preferences: Preferences, groups: Groups) -> Metrics:
    """Deterministic metrics of one iteration: `rollouts/…`, `judge/…`, `cycles/…`, `pairs/…`.

    Among them `cycles/cyclic_triples`, the share of strict triples of a prompt's responses whose majority cycles, and
    `rollouts/entropy_nats_per_token`, the mean surprisal of sampled tokens.
    """
    tokens = rollouts.lengths.sum()
    return {
        "rollouts/responses": float(rollouts.lengths.size),
        "rollouts/tokens_mean": float(rollouts.lengths.mean()),
        "rollouts/finished": float(rollouts.finished.mean()),
        "rollouts/entropy_nats_per_token": float(-rollouts.logps.sum(dtype=np.float64) / tokens),
        **note_metrics([preferences]),
        **cycle_metrics(preferences.prefer),
        **pairing_metrics(rollouts, preferences, groups),
    }
