"""What a fit descends, of pairs that it is not trained on: their loss under any parameters.

They are people's pairs that are held out for the whole run, or a share of an iteration's own (`Sampled.validation`).
Losses are against the references that the fit began with, so that those of two steps can be compared. A reference that
moves (`Following`) makes another objective of every step: one that has become the policy has a margin of 0 to it,
however good both are.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from jaxalign.contracts.extras import extras_of
from jaxalign.data.groups import TrainingGroups
from jaxalign.feedback.contract import Compared
from jaxalign.fits.references import score
from jaxalign.models.low_rank import frozen, trained
from jaxalign.session import Session
from jaxalign.training.pair_scores import PairScores
from jaxalign.training.scored import ReferenceLogps
from jaxalign.types import Params

NONE: Mapping[str, Params] = MappingProxyType({})
"""No reference has moved."""


@runtime_checkable
class Scores(Protocol):
    """What policies make of pairs, against the references that the fit began with."""

    def __call__(self, found: Params, what: str, moved: Mapping[str, Params] = NONE) -> PairScores:
        """Of the policy of trained parameters `found`; `what` is told of it while it lasts. Where references have
        `moved`, against trained parameters by role. Raises Interrupted."""
        ...


@dataclass(frozen=True)
class Watch:
    """What evaluates a fit inside, None: nothing does; and whether what it begins with is evaluated too, and may be the
    best."""

    scores: Scores | None
    start: bool = False


UNWATCHED = Watch(None)


def watched(
    session: Session,
    iteration: int,
    roles: Mapping[str, int],
    params: Callable[[int], Params],
    compared: Compared,
) -> Watch:
    """What evaluates the fit of an iteration. `roles` are numbers of the policies that it compares with, `params` finds
    one by its number."""
    if session.experiment.fit.evaluate_every is None:
        return UNWATCHED
    if session.heldout_pairs is not None:
        base = frozen(params(roles["last"]))

        def heldout(found: Params, what: str, moved: Mapping[str, Params] = NONE) -> PairScores:
            return session.pair_scores(iteration, found, base, iteration, what, moved)

        return Watch(heldout)
    validation = compared.validation
    if validation is None:
        return UNWATCHED
    references = session.phase(
        iteration,
        "validation",
        ReferenceLogps,
        lambda: score(session, iteration, roles, params, validation, "validation", every=True),
    )
    return Watch(scores_of(session, iteration, roles, params, validation, references), start=True)


def scores_of(
    session: Session,
    iteration: int,
    roles: Mapping[str, int],
    params: Callable[[int], Params],
    groups: TrainingGroups,
    references: ReferenceLogps,
) -> Scores:
    """Scores of groups that an iteration's policy has sampled, by the loss of its fit; `references` are log-probs of
    all roles that the loss reads."""
    score, base = session.pair_scorer(session.closing(iteration)), frozen(params(roles["last"]))
    tables = dict(zip(references.roles, references.sums, strict=True))
    live: Mapping[str, Params] = {}
    if "anchor_tokens" in extras_of(session.experiment.loss):
        live = {"anchor": trained(params(roles["anchor"]))}

    def scores(found: Params, what: str, moved: Mapping[str, Params] = NONE) -> PairScores:
        with session.progress(iteration, what, len(groups), "pairs") as progress:

            def between(done: int) -> None:
                progress(done)
                session.stop_here(f"after {done} pairs that the fit does not see")

            known = tables.get("anchor"), tables.get("last")
            return score(found, base, groups, *known, between=between, live=moved or live)

    return scores
