"""Of what certificates say anything: of fits that are regularised mirror steps on pairs of the policy's own.

Answers count as drawn from the policy itself. A sampler that is cooler or cuts tails draws from another one, and what
is certified is off by as much.
"""

from jaxalign.config.load import components
from jaxalign.contracts.oracle import MeetsPolicy
from jaxalign.contracts.scope import OpenableOracle
from jaxalign.contracts.scores import ScoreLoss
from jaxalign.feedback.contract import Feedback
from jaxalign.feedback.sampled import Sampled
from jaxalign.losses.mirror import mirror_step
from jaxalign.pairs import OfPolicy
from jaxalign.rollouts.contract import AnchoredRollout
from jaxalign.types import Loss, Oracle


def uncertified(loss: Loss | ScoreLoss, feedback: Feedback) -> str:
    """Why nothing is certified of fits of the loss on this feedback; empty where something is."""
    game = mirror_step(loss)
    if game is None:
        return f"{type(loss).__name__} takes no mirror step; INPO does"
    if not game.regularised:
        return "loss.tau is 0: the anchor does not pull, and no inner problem has a solution of its own"
    if not isinstance(feedback, Sampled):
        return "the pairs are not the policy's own"
    if isinstance(feedback.rollout, AnchoredRollout):
        name = type(feedback.rollout).__name__
        return f"the anchor has a part in the answers of {name}, and the opponent is not the policy itself"
    if not (isinstance(feedback.pairing, OfPolicy) and feedback.pairing.iid):
        return (
            f"{type(feedback.pairing).__name__} does not say that its pairs are drawn i.i.d. from the policy and "
            "labelled by the oracle alone: it solves another game"
        )
    return ""


def is_matrix(feedback: Feedback) -> bool:
    """Whether the oracle's game is one of a fixed probability for each pair of answers."""
    return feedback.oracle is not None and not meets_policy(feedback.oracle)


def meets_policy(oracle: Oracle | OpenableOracle) -> bool:
    """Whether what it says of two answers depends on what else the policy says."""
    return any(isinstance(part, MeetsPolicy) and part.meets_policy for part in components(oracle).values())
