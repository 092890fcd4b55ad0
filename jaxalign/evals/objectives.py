"""Held-out pairs by objective: how well a policy ranks the two answers as each annotator alone does, and by how much.

Conflicting objectives are told apart by nothing else: of all together there is one accuracy, whichever of them is met.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from jaxalign.errors import ConfigError
from jaxalign.evals.context import HeldOut
from jaxalign.evals.pairs import bounded_interval, interval
from jaxalign.training.pair_scores import weighted_mean
from jaxalign.types import Metrics


@dataclass(frozen=True)
class HeldOutObjectives:
    """`heldout/accuracy/objective_0` among pairs that annotator 0 decides, `heldout/margin_nats/objective_0` by
    which the policy prefers the answer that it chose, and so on: means by weight over pairs with 95 % intervals over
    prompts, `…_ci95_low` and `…_ci95_high`, as of `HeldOutPairs`. Margins are of log π/π_anchor, so that the base is at
    0; of log π where the loss has no anchor (`AMoPO`), whose base is where its likelihoods put it: these are to be
    compared by what they gain over the base, as `jaxalign sweep` does. Nothing of an annotator who decides no pair."""

    resamples: int = 2000
    """bootstrap resamples of the prompts, >= 1"""

    needs: ClassVar[tuple[str, ...]] = ("pairs",)

    def problems(self) -> Iterable[str]:
        if self.resamples < 1:
            yield f"resamples must be at least 1, got {self.resamples}"

    def __call__(self, context: HeldOut) -> Metrics:
        scores = context.pairs
        if scores is None or scores.votes is None:
            raise ConfigError("evals: HeldOutObjectives needs held-out pairs with votes, and there are none")
        metrics: Metrics = {}
        for index in range(scores.votes.shape[1]):
            columns = scores.of_annotator(index)
            if np.isnan(columns["accuracy"]).all():
                continue
            bounds = {
                "accuracy": bounded_interval(columns["accuracy"], scores.weight, scores.prompt),
                "margin_nats": interval(
                    columns["margin_nats"], scores.weight, scores.prompt, context.key, self.resamples
                ),
            }
            for name, (low, high) in bounds.items():
                metrics |= {
                    f"heldout/{name}/objective_{index}": weighted_mean(columns[name], scores.weight),
                    f"heldout/{name}/objective_{index}_ci95_low": low,
                    f"heldout/{name}/objective_{index}_ci95_high": high,
                }
        return metrics


EXAMPLE = HeldOutObjectives()
