"""Has a fit lowered its own objective, on pairs of prompts that it has not seen? And if not, why: too far, or the wrong
way?"""

import math
import sys
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxalign.data.groups import TrainingGroups
from jaxalign.fits.objective import scores_of
from jaxalign.fits.references import score
from jaxalign.losses.regresses import Regresses
from jaxalign.models.low_rank import trained
from jaxalign.session import Session
from jaxalign.storage.rundir import RunDir
from jaxalign.training.pair_scores import PairScores, weighted_mean
from jaxalign.training.scored import ReferenceLogps
from jaxalign.types import GroupLogps, Labels, Metrics, Params


def check_fit(
    session: Session,
    iteration: int,
    roles: Mapping[str, int],
    params: Callable[[int], Params],
    unseen: TrainingGroups,
    fitted: Params,
) -> Metrics:
    """What the fit of a policy to `fitted` has done to its objective on `unseen` groups.

    fit/heldout_loss_before    of the policy that it began with
    fit/heldout_loss           of `fitted`
    fit/heldout_change_stderr  standard error of the change over prompts; absent for a single one

    against the references that the fit began with, also where they move (`Following`); and `moved`, where the loss
    regresses margins. Says on stderr when the objective has not fallen: then no step of the method was taken.
    `roles` are numbers of the policies that the fit compares with.
    """
    references = score(session, iteration, roles, params, unseen, "unseen", every=True)
    scores = scores_of(session, iteration, roles, params, unseen, references)
    before, after = (
        scores(trained(policy), f"unseen pairs, {when} the fit")
        for policy, when in ((params(roles["last"]), "before"), (fitted, "after"))
    )
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
    loss = session.fitted(session.closing(iteration)).loss
    if isinstance(loss, Regresses):
        labels = unseen.take(np.arange(len(unseen))).labels
        first, last = (seen(each, references, labels) for each in (before, after))
        metrics |= moved(loss, first, last, before.weight)
    if metrics["fit/heldout_loss"] >= metrics["fit/heldout_loss_before"] and session.hosts.leader:
        print(f"{session.title(iteration)} {unsolved(metrics, len(change))}", file=sys.stderr, flush=True)
    return metrics


def seen(scores: PairScores, references: ReferenceLogps, labels: Labels) -> GroupLogps:
    """What a loss of sums sees of scored pairs."""
    tokens = jnp.asarray(scores.sums)[..., None]
    tables = dict(zip(references.roles, map(jnp.asarray, references.sums), strict=True))
    labels = jax.tree.map(jnp.asarray, labels)
    return GroupLogps(tokens, jnp.ones_like(tokens, bool), tables.get("last"), tables.get("anchor"), labels)


def moved(loss: Regresses, before: GroupLogps, after: GroupLogps, weight: Float[np.ndarray, " g"]) -> Metrics:
    """How far the margins of pairs lay from what is wanted of them, and what has become of that.

    fit/margin_wanted_nats   what was lacking, E w² / E |w|
    fit/margin_moved_nats    by how much they were moved that way, E w d / E |w|: all of it where a policy can do that
                             and has, less where preferences cycle, labels disagree, or the fit is not at its end
    fit/best_scale           E w d / E d²: of movements along the same way so many times as far, the one that comes
                             nearest; 1 where the objective is solved. Below 1/2 the loss has risen, and below 0 the
                             way is wrong
    """
    at = np.asarray(loss.margins(before), np.float64)
    lacking, went = np.asarray(loss.wanted(before), np.float64) - at, np.asarray(loss.margins(after), np.float64) - at
    wanted, along, square = (weighted_mean(each, weight) for each in (abs(lacking), lacking * went, went**2))
    if wanted == 0 or square == 0:
        return {}
    return {
        "fit/margin_wanted_nats": weighted_mean(lacking**2, weight) / wanted,
        "fit/margin_moved_nats": along / wanted,
        "fit/best_scale": along / square,
    }


def unsolved(metrics: Metrics, prompts: int) -> str:
    """What is told of a fit that has not lowered its objective, and what may."""
    change = metrics["fit/heldout_loss"] - metrics["fit/heldout_loss_before"]
    error = metrics.get("fit/heldout_change_stderr")
    spread = "" if error is None else f" ± {error:.2g}"
    went = f"from {metrics['fit/heldout_loss_before']:.4g} to {metrics['fit/heldout_loss']:.4g} ({change:+.2g}{spread})"
    said = f"fit: its loss on the pairs of {prompts} prompts that it has not seen went {went}"
    return f"{said}: it did not lower its objective{_advice(metrics)}"


def _advice(metrics: Metrics) -> str:
    """Of a loss that regresses margins: whether the fit has gone too far, or the wrong way."""
    if "fit/best_scale" not in metrics:
        return ""
    wanted, scale = metrics["fit/margin_wanted_nats"], metrics["fit/best_scale"]
    margins = f"; margins lack {wanted:.3g} nats and were moved {metrics['fit/margin_moved_nats']:.2g} of them"
    if scale <= 0:
        return f"{margins}, and no step this way lowers it: give the fit more pairs or prompts"
    return f"{margins}, and {scale:.2g} times as far would have been best: a lower rate, a fit.max_kl, or more pairs"


def fits_told(run: RunDir, iterations: int) -> Metrics:
    """Of a run whose fits were checked: how many, how many have lowered their objective on unseen pairs, how many of
    these by more than the standard error of the change, and the mean change; nothing where none was. All processes ask
    together."""
    there = [each for each in range(iterations) if run.has(each, "unseen")]
    found = [run.load(each, "unseen", dict[str, float]) for each in there]
    changes = [each["fit/heldout_loss"] - each["fit/heldout_loss_before"] for each in found]
    if not changes:
        return {}
    errors = [each.get("fit/heldout_change_stderr", math.inf) for each in found]
    return {
        "fits/checked": float(len(changes)),
        "fits/lowered": float(sum(change < 0 for change in changes)),
        "fits/lowered_beyond_error": float(sum(-change > error for change, error in zip(changes, errors, strict=True))),
        "fits/heldout_change_mean": float(np.mean(changes)),
    }
