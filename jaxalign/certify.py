"""Certificates of an iteration, on its own samples: is the inner game solved, and can the schedule settle at all?

COMAL needs its regularised games solved well enough before the anchor moves: with too few iterations a swap it is
multiplicative weights, which spirals away where the Nash policy is mixed. `games.inner_gap` estimates what is left of
the inner problem, by which an adaptive anchor moves; `games.stability` tells what exact steps do on the sampled games.
"""

import sys
from collections.abc import Callable

import numpy as np

from jaxalign.anchors.adaptive import NEXT, Adaptive
from jaxalign.feedback.certifiable import is_matrix, uncertified
from jaxalign.feedback.contract import Compared
from jaxalign.fits.references import answer_sums
from jaxalign.games.advice import advice
from jaxalign.games.inner_gap import inner_metrics
from jaxalign.games.sampled_games import SampledGames
from jaxalign.games.stability import Setting, stability
from jaxalign.losses.mirror import mirror_step
from jaxalign.references.blended import Blended
from jaxalign.rollouts.enumerate import enumerated
from jaxalign.session import Session
from jaxalign.types import Metrics, Params


def certify(session: Session, iteration: int, params: Callable[[int], Params], compared: Compared) -> Metrics:
    """`inner_metrics`, those of `Stability` where the oracle's game is a matrix, and the anchor that an adaptive
    one comes to; nothing where no fit is a mirror step on pairs of the policy (`uncertified`), the anchor is blended of
    several policies, or a step looks ahead.

    Every sampled response is scored under the anchor, one forward pass, in committed parts; none right after a swap,
    when the anchor is the policy itself. Says on stderr when the schedule leads away from what it should come to, and
    what would not.
    """
    experiment = session.experiment
    game, rollouts, preferences = mirror_step(experiment.loss), compared.rollouts, compared.preferences
    if game is None or rollouts is None or preferences is None or uncertified(experiment.loss, experiment.feedback):
        return {}
    if isinstance(experiment.reference, Blended) or experiment.step_rule.period > 1:
        return {}
    number, swap = session.anchor(iteration), experiment.swap_every
    own = rollouts.logps.sum(-1, dtype=np.float64)
    anchor = own
    if number != iteration:
        anchor = answer_sums(session, iteration, params, rollouts)
    games = SampledGames.of(preferences.prefer, rollouts.weights, own - anchor)
    metrics = inner_metrics(games, enumerated(rollouts), game.tau)
    if isinstance(swap, Adaptive):
        metrics[NEXT] = float(iteration + 1 if closes(swap, metrics, game.tau) else number)
    if not is_matrix(experiment.feedback):
        return metrics
    setting = Setting(game.step, game.tau, swap if isinstance(swap, int) else None)
    examined = games.thinned().merged()
    found = stability(examined, setting)
    if found.warning and session.hosts.leader:
        said = f"{session.title(iteration)} certificate: {found.warning}; {advice(examined, setting)}"
        print(said, file=sys.stderr, flush=True)
    return metrics | found.metrics()


def closes(swap: Adaptive, metrics: Metrics, tau: float) -> bool:
    """Whether the round is over with this iteration's fit; not where no error of the estimate is known."""
    error = metrics.get("align/inner_gap_stderr")
    if error is None:
        return False
    return swap.solved(metrics["align/inner_gap_corrected"], error, tau * metrics["align/anchor_kl_nats"])
