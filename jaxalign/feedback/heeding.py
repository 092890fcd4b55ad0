"""Whether groups know how likely the policy's answers are.

Of samples a pairing need not ask: an answer that is likely is there often. Where every answer is listed once, its
weight alone says how likely it is, and a rule that goes by ranks or ratings makes the same groups whatever the policy:
every fit would be of the same few answers. It is found out by asking the rule: one's own is asked like any.
"""

import dataclasses

import jax
import numpy as np

from jaxalign.config.load import Checked
from jaxalign.contracts.pairing import CheckedPairing, group_size, pairing_at
from jaxalign.contracts.scores import ScoreLoss
from jaxalign.contracts.traced import check_loss
from jaxalign.contracts.votes import annotators_of
from jaxalign.errors import DataError
from jaxalign.feedback.contract import Feedback
from jaxalign.feedback.sampled import Sampled, certain
from jaxalign.objectives.mixed import Mixed
from jaxalign.rollouts.enumerate import listed
from jaxalign.types import Labels, Loss, Pairing

PROMPTS = 16
"""That a rule is asked of, with other weights for each: of a single one it may come to the same groups by chance."""


def heedless(loss: Loss | ScoreLoss, feedback: Feedback) -> str:
    """Why fits of the loss on this feedback know nothing of the policy's probabilities; empty where they do.

    Groups that are always the same are no fault where the loss reads win rates, which are the policy's, and they hold
    all answers: what online IPO 1 takes, with `EvenPairs`. Nothing is said of settings that are wrong themselves.
    """
    if not isinstance(feedback, Sampled) or not listed(feedback.rollout):
        return ""
    if any(isinstance(each, Checked) and list(each.problems()) for each in (feedback.pairing, loss)):
        return ""
    pairing = pairing_at(feedback.pairing, 0)
    try:
        same, whole = unweighted(pairing)
    except Exception:  # one's own may want what these answers have not; what is broken is told of where groups are made
        return ""
    if not same or (whole and reads_win_rates(loss, group_size(pairing))):
        return ""
    name = type(feedback.pairing).__name__
    return (
        f"{name} takes no notice of how likely answers are, and a rollout that lists them says it by their weights "
        "alone: groups would be the same whatever the policy; take RandomPair or AllPairs, or sample answers"
    )


def unweighted(pairing: Pairing) -> tuple[bool, bool]:
    """Whether a pairing makes the same groups of answers that one policy gives evenly and another does not, and whether
    every answer is in one of them. Raises BrokenContract for what are no groups."""
    answers = 2 * group_size(pairing) + 2
    even, preferences = certain(answers, PROMPTS)
    drawn = np.random.default_rng(0).dirichlet(np.ones(answers), PROMPTS)
    uneven = dataclasses.replace(even, weights=drawn.astype(np.float32))
    one, other = (CheckedPairing(pairing)(each, preferences, jax.random.key(0)) for each in (even, uneven))
    told = [(each.prompt, each.responses, each.weight) for each in (one, other)]
    same = len(one.prompt) > 0 and all(np.array_equal(*columns) for columns in zip(*told, strict=True))
    return same, len(np.unique(one.responses)) == answers


def reads_win_rates(loss: Loss | ScoreLoss, responses: int) -> bool:
    """Whether the loss asks for win rates of groups of so many responses."""
    said = dataclasses.replace(Labels.unsaid(2, responses, annotators_of(loss)), win=None)
    try:
        check_loss(loss, Mixed(), said, responses=responses)
    except DataError:
        return True
    return False
