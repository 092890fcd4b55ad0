"""Log-probs recorded while sampling against one forward pass over the finished rows: cache and position bugs."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from jaxalign.doctor.opened import Opened
from jaxalign.doctor.outcome import Outcome, judged
from jaxalign.doctor.tolerance import NATS_PER_TOKEN


@dataclass(frozen=True)
class Sampling:
    """Left-padded prompts and a cache that is written token by token, against right-padded rows of branches."""

    def __call__(self, opened: Opened) -> Iterable[Outcome]:
        rollouts, allowed = opened.rollouts, NATS_PER_TOKEN[opened.model.config.compute_dtype]
        real = np.arange(rollouts.tokens.shape[2])[None, None] < rollouts.lengths[..., None]
        width = min(real.shape[2], opened.recomputed.shape[2])  # both are 0 beyond the longest answer
        apart = np.abs(rollouts.logps[..., :width] - opened.recomputed[..., :width])[real[..., :width]]
        largest = float(apart.max())
        fix = "decoding and the forward pass disagree: a bug of positions, cache or padding in the model's family"
        yield judged(
            "recorded while sampling = recomputed",
            {"tokens": int(real.sum()), "nats_max": largest, "nats_mean": float(apart.mean()), "allowed": allowed},
            [] if largest <= allowed else [fix],
        )


CHECK = Sampling()
