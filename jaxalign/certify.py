"""Certificates of an iteration, on its own samples: is the inner game solved, can the schedule settle at all, and has
the fit lowered its objective?

COMAL needs its regularised games solved well enough before the anchor moves: with too few iterations a swap it is
multiplicative weights, which diverges on cyclic preferences. `games.inner_gap` estimates what is left of the inner
problem, by which an adaptive anchor moves; `games.stability` tells what exact steps do on the sampled games.
"""

import sys
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from jaxalign.anchors.adaptive import NEXT, Adaptive
from jaxalign.contracts.extras import extras_of
from jaxalign.data.groups import TrainingGroups, one_group_a_prompt
from jaxalign.feedback.certifiable import is_matrix, uncertified
from jaxalign.feedback.contract import Compared
from jaxalign.games.advice import advice
from jaxalign.games.inner_gap import inner_metrics
from jaxalign.games.sampled_games import SampledGames
from jaxalign.games.stability import Setting, stability
from jaxalign.losses.mirror import mirror_step
from jaxalign.models.low_rank import frozen, trained
from jaxalign.references.blended import Blended, blended
from jaxalign.rollouts.enumerate import enumerated
from jaxalign.session import Session
from jaxalign.training.pair_scores import weighted_mean
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
        anchor = session.logps(iteration, "certificates", number, params(number), one_group_a_prompt(rollouts))
    games = SampledGames.of(preferences.prefer, rollouts.weights, own - anchor)
    metrics = inner_metrics(games, enumerated(rollouts), game.tau)
    if isinstance(swap, Adaptive):
        metrics[NEXT] = float(iteration + 1 if closes(swap, metrics, game.tau) else number)
    if not is_matrix(experiment.feedback):
        return metrics
    setting = Setting(game.step, game.tau, swap if isinstance(swap, int) else None)
    examined = games.thinned()
    found = stability(examined, setting)
    if found.warning and session.hosts.leader:
        said = f"{session.title(iteration)} certificate: {found.warning}; {advice(examined, setting)}"
        print(said, file=sys.stderr, flush=True)
    return metrics | found.metrics()


def check_fit(
    session: Session, iteration: int, params: Callable[[int], Params], unseen: TrainingGroups, fitted: Params
) -> Metrics:
    """`fit/heldout_loss_before` and `fit/heldout_loss`: the fit's objective on `unseen` groups, of the policy that it
    began with and of `fitted`, and the standard error of the change over prompts, `fit/heldout_change_stderr` (absent
    for a single one). Says on stderr when the objective has not fallen: then no step of the method was taken."""
    origin, number = session.experiment.step_rule.origin(iteration), session.anchor(iteration)
    policy, score = params(origin), session.pair_scorer(session.closing(iteration))
    last = session.logps(iteration, "unseen", origin, policy, unseen)

    def sums(of: int) -> Float[np.ndarray, "g r"]:
        return last if of == origin else session.logps(iteration, "unseen", of, params(of), unseen)

    anchor = blended(session.experiment.reference, session.members(iteration), sums, last.shape)
    live = {"anchor": trained(params(number))} if "anchor_tokens" in extras_of(session.experiment.loss) else {}
    before, after = (score(trained(each), frozen(each), unseen, anchor, last, live=live) for each in (policy, fitted))
    metrics = {
        "fit/heldout_loss_before": before.metrics()["loss"],
        "fit/heldout_loss": after.metrics()["loss"],
    }
    change = [
        weighted_mean((after.loss - before.loss)[own].astype(np.float64), before.weight[own])
        for own in (before.prompt == prompt for prompt in np.unique(before.prompt))
    ]
    if len(change) > 1:
        metrics["fit/heldout_change_stderr"] = float(np.std(change, ddof=1) / len(change) ** 0.5)
    if metrics["fit/heldout_loss"] >= metrics["fit/heldout_loss_before"] and session.hosts.leader:
        went = f"from {metrics['fit/heldout_loss_before']:.4g} to {metrics['fit/heldout_loss']:.4g}"
        said = f"fit: its loss on the pairs of {len(change)} prompts that it has not seen went {went}"
        print(f"{session.title(iteration)} {said}: it did not solve its objective", file=sys.stderr, flush=True)
    return metrics


def closes(swap: Adaptive, metrics: Metrics, tau: float) -> bool:
    """Whether the round is over with this iteration's fit; not where no error of the estimate is known."""
    error = metrics.get("align/inner_gap_stderr")
    if error is None:
        return False
    return swap.solved(metrics["align/inner_gap_corrected"], error, tau * metrics["align/anchor_kl_nats"])
