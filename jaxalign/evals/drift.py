"""How far a policy has drifted: KL divergence from another policy, estimated on its own held-out answers.

    KL(π ‖ μ) = E_x Σ_i w_i (log π(y_i | x) − log μ(y_i | x))    nats per answer, y_i ∼ π

The plain Monte-Carlo estimate: unbiased for samples at temperature 1 without truncation, exact for enumerated
answers, and it may come out slightly negative. An answer cut by the length limit counts with the tokens it has.
Samples drawn colder than the policy are weighted by the sampler, not by the policy.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from jaxalign.evals.context import HeldOut, role_problems
from jaxalign.types import Metrics


@dataclass(frozen=True)
class Drift:
    """`drift/kl_from_<role>_nats`, its standard error over prompts `…_nats_stderr`, and `…_nats_per_token`.

    Nats per token are expected nats over expected tokens of an answer.
    """

    against: tuple[str, ...] = ("base",)

    needs: ClassVar[tuple[str, ...]] = ("answers",)

    def problems(self) -> Iterable[str]:
        yield from role_problems(self.against)

    def __call__(self, context: HeldOut) -> Metrics:
        rollouts = context.current
        scored = np.arange(rollouts.logps.shape[2]) < rollouts.lengths[:, :, None]
        own = np.where(scored, rollouts.logps, 0).sum(-1, dtype=np.float64)
        weights = rollouts.weights.astype(np.float64)
        tokens = (weights * rollouts.lengths).sum(-1).mean()
        metrics: Metrics = {}
        for role in self.against:
            name = context.opponent(role)
            if name is None:
                continue
            other = own if name == context.names[-1] else context.logps(name)
            nats = (weights * (own - other)).sum(-1)
            metrics |= {
                f"drift/kl_from_{role}_nats": float(nats.mean()),
                f"drift/kl_from_{role}_nats_stderr": float(nats.std(ddof=1) / np.sqrt(len(nats)))
                if len(nats) > 1
                else 0.0,
                f"drift/kl_from_{role}_nats_per_token": float(nats.mean() / max(tokens, 1.0)),
            }
        return metrics


EXAMPLE = Drift()
