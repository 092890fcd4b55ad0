"""Certificates of an iteration, on its own samples: is the inner game solved, and can the schedule settle at all?

COMAL needs its regularised games solved well enough before the anchor moves: with too few iterations a swap it is
multiplicative weights, which diverges on cyclic preferences. `games.certificates` has the bounds; here they are
estimated from the sampled preference matrices and the policy's log-ratio to its anchor.
"""

import math
import sys
from collections.abc import Callable, Mapping

import numpy as np

from jaxalign.feedback.contract import Compared
from jaxalign.games.certificates import run_metrics
from jaxalign.losses.mirror import mirror_step
from jaxalign.session import Session
from jaxalign.types import Metrics, Params


def certify(
    session: Session,
    roles: Mapping[str, int],
    params: Callable[[int], Params],
    compared: Compared,
) -> Metrics:
    """`align/inner_gap` and `align/contraction`; nothing for losses that solve no regularised game, and of pairs that
    the policy did not sample.

    Every sampled response is scored under the anchor, one forward pass; none right after a swap, when the anchor is
    the policy itself. Says on stderr when the schedule expands cycles (contraction at 1 or above).
    """
    game = mirror_step(session.experiment.loss)
    rollouts, preferences = compared.rollouts, compared.preferences
    if game is None or not game.regularised or rollouts is None or preferences is None:
        return {}
    own = rollouts.logps.sum(-1, dtype=np.float64)
    anchor = (
        own if roles["anchor"] == roles["last"] else session.machine.scorer.rollouts(params(roles["anchor"]), rollouts)
    )
    metrics = run_metrics(
        preferences.prefer,
        own - anchor,
        rollouts.weights,
        eta=game.step,
        tau=game.tau,
        inner=session.experiment.swap_every or math.inf,
    )
    if metrics["align/contraction"] >= 1 and session.hosts.leader:
        print(
            f"{session.title(roles['last'])} certificate: on these preferences a round multiplies the distance to the "
            f"Nash policy by {metrics['align/contraction']:.3g}; a smaller step (larger loss.eta), a larger loss.tau "
            "or more iterations a swap would contract",
            file=sys.stderr,
            flush=True,
        )
    return metrics
