"""The outer loop: sample, compare, group, score references, fit, sometimes swap the anchor, evaluate.

COMAL (Liu et al. 2024, arXiv 2410.23223), Algorithm 3, and its relatives; `Experiment` says what makes which. The run
directory is the state: every phase commits one artifact, a committed phase is not computed again, and so the same
command continues from wherever the last one stopped and ends with the same bits.
"""

from functools import partial

from jaxalign.certify import certify
from jaxalign.errors import NotCommitted
from jaxalign.evaluate import evaluate, summarise
from jaxalign.experiment import needed
from jaxalign.fit import fit
from jaxalign.fits.check import check_fit
from jaxalign.fits.objective import watched
from jaxalign.fits.references import score
from jaxalign.session import Session
from jaxalign.storage import lost
from jaxalign.storage.rundir import home
from jaxalign.training.scored import ReferenceLogps
from jaxalign.types import Params


def align(session: Session) -> dict:
    """Runs the experiment to its end, from wherever the run directory stands; returns the committed summary."""
    iteration = session.run.finished()
    lost.tell(session.run, iteration)
    while True:
        try:
            return from_iteration(session, iteration)
        except NotCommitted as gone:  # deleted because it was damaged: what lies before it makes it again
            if gone.iteration >= iteration:
                raise
            iteration = gone.iteration


def from_iteration(session: Session, iteration: int) -> dict:
    """As `align`, from iteration `iteration` on: what is committed of it and of those behind it is not made again."""
    experiment, policy = session.experiment, session.policy(iteration)
    while True:
        evaluate(session, iteration, policy)
        session.run.complete(home(iteration))
        session.run.prune(experiment.keep_policies, protect=needed(experiment, session.run, iteration))
        if iteration == experiment.iterations:
            return summarise(session)
        policy = improve(session, iteration, policy)
        iteration += 1


def improve(session: Session, iteration: int, policy: Params) -> Params:
    """One outer iteration: policy `iteration` → policy `iteration` + 1."""
    experiment = session.experiment
    phase = partial(session.phase, iteration)

    # What is trained on: answers of the policy and who prefers which, or what people have said before.
    compared = session.compared(iteration, policy)
    session.recorder.log(iteration, "align", 0, compared.metrics)

    origin = experiment.step_rule.origin(iteration)
    begun = policy if origin == iteration else session.policy(origin)

    def params(number: int) -> Params:
        known = {iteration: policy, origin: begun}
        return known[number] if number in known else session.policy(number)

    # Is the inner problem solved, and can the schedule settle at all? If so, an adaptive anchor moves with this fit.
    certificates = phase("certificates", dict[str, float], lambda: certify(session, iteration, params, compared))
    session.recorder.log(iteration, "certificates", 0, certificates)

    # What the fit compares with: where the step begins, which is the policy that spoke unless that one looked ahead,
    # and the anchor. Swapping the anchor is this one number.
    roles = {"last": origin, "anchor": session.anchor(iteration)}
    references = phase("references", ReferenceLogps, lambda: score(session, iteration, roles, params, compared.groups))

    # The regression towards the winners, watched where it does not look.
    live = {role: params(roles[role]) for role in experiment.reference.live(experiment.loss.needs)}
    watch = watched(session, iteration, roles, params, compared)
    fitted = fit(session, iteration, begun, live, compared.groups, references, watch)

    # Has it become better at what it was asked for, where it has not looked?
    if compared.unseen is not None:
        unseen = compared.unseen
        kept = phase("unseen", dict[str, float], lambda: check_fit(session, iteration, roles, params, unseen, fitted))
        session.recorder.log(iteration, "unseen", 0, kept)
    return fitted
