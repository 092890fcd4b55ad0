"""Log-probs of an iteration's groups under what its fit compares with; the anchor reads every answer once.

Certificates are of all answers that the policy gave, references of those that are in groups: of the same ones, so where
there are certificates they have read them already.
"""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float

from jaxalign.data.groups import TrainingGroups, one_group_a_prompt
from jaxalign.references.blended import blended
from jaxalign.session import Session
from jaxalign.training.scored import ReferenceLogps
from jaxalign.types import Params, Rollouts

ANSWERS = "answers"
"""The artifact: of every answer that an iteration's policy gave, under its anchor."""


def answer_sums(
    session: Session, iteration: int, params: Callable[[int], Params], rollouts: Rollouts
) -> Float[np.ndarray, "b m"]:
    """Nats of every rollout under the anchor of the iteration that sampled them; scored when they are first asked for,
    in committed parts. `params` finds a policy by its number."""
    number = session.anchor(iteration)

    def make() -> ReferenceLogps:
        sums = session.logps(iteration, ANSWERS, number, params(number), one_group_a_prompt(rollouts))
        return ReferenceLogps(("anchor",), sums[None])

    # The run's phase and not the session's: their seconds are those of the phase that asks.
    return session.run.phase(iteration, ANSWERS, make, ReferenceLogps).sums[0]


def score(
    session: Session,
    iteration: int,
    roles: Mapping[str, int],
    params: Callable[[int], Params],
    groups: TrainingGroups,
    phase: str = "references",
    every: bool = False,
) -> ReferenceLogps:
    """Log-prob sums of an iteration's groups for the roles that the experiment's reference strategy stores, or for
    `every` one that the loss reads, in parts of a phase. `roles` are numbers of policies, `params` finds one by its
    number."""
    reference, needs = session.experiment.reference, session.experiment.loss.needs
    stored, shape = needs if every else reference.stored(needs), (len(groups), groups.responses)
    members = {role: session.members(iteration) if role == "anchor" else (roles[role],) for role in stored}

    def of(number: int) -> Float[np.ndarray, "g r"]:
        if number == roles.get("anchor") and session.run.has(iteration, ANSWERS):
            known = session.run.load(iteration, ANSWERS, ReferenceLogps).sums[0]
            return known.reshape(-1)[groups.answers]
        return session.logps(iteration, phase, number, params(number), groups)

    # right after a swap the anchor is the last policy
    tables = {number: of(number) for number in sorted({each for of in members.values() for each in of})}
    how = {"anchor": reference}
    sums = [blended(how.get(role), members[role], tables.__getitem__, shape) for role in stored]
    return ReferenceLogps(roles=stored, sums=np.array(sums, np.float32).reshape(len(stored), *shape))
