"""Held-out answers of three policies to three prompts, with judges, log-probs and scored pairs."""

import dataclasses

import jax
import numpy as np
from made_rollouts import rollouts

from jaxalign.evals.context import HeldOut
from jaxalign.oracles.annotators import Brevity, Coverage, NonRepetition
from jaxalign.oracles.panel import Panel, Weighted
from jaxalign.training.pair_scores import PairScores
from jaxalign.types import Rollouts

ASKED = ["Why does bread rise?", "Name a good book about the sea and say why.", "How do birds find their way?"]
ANSWERS = [
    [
        ["Yeast makes gas in the dough.", "Bread rises because of gas, gas and gas"],
        ["Moby Dick, for its whale.", ""],
        ["By the sun.", "They look at the stars, and they feel the earth."],
    ],
    [
        ["Gas.", "The dough is full of gas from yeast."],
        ["Try Moby Dick.", "Moby Dick is about the sea and a whale."],
        ["By the sun.", "By the sun and"],
    ],
    [
        ["Gas makes the bread rise.", "Yeast."],
        ["I do not know any book about the sea.", "Moby Dick, by Melville."],
        ["Birds see the sun", "Birds."],
    ],
]

PAIRS = PairScores(
    loss=np.array([0.3, 0.7, 1.1], np.float32),
    sums=np.array([[-2.0, -3.0], [-4.0, -3.5], [-1.0, -1.0]], np.float32),
    anchor=np.zeros((3, 2), np.float32),
    prefer=np.array([1.0, 0.8, 0.5], np.float32),
    weight=np.ones(3, np.float32),
    prompt=np.arange(3),
    lengths=np.array([[3, 4], [5, 2], [2, 2]]),
    votes=np.array([[1.0, 0.0], [0.8, 0.5], [0.5, 1.0]], np.float32),
)


def panel() -> Panel:
    return Panel((Weighted(Brevity(), 1.0, 0.2), Weighted(Coverage(), 1.0, 0.1), Weighted(NonRepetition(), 1.0, 0.1)))


def listed(context: HeldOut) -> HeldOut:
    """The same answers as all that each policy says, equally likely."""

    def even(answers: Rollouts) -> Rollouts:
        logps = np.zeros_like(answers.logps)
        logps[..., 0] = np.log(1 / answers.logps.shape[1])
        return dataclasses.replace(answers, logps=logps)

    return dataclasses.replace(context, responses={name: even(each) for name, each in context.responses.items()})


def held_out(policies: int = 3, oracle=None, key=None, trainer=None) -> HeldOut:
    """Three prompts, two answers from each of up to three policies; the last finds 1/4 nat more than the others."""
    names = ("base", "iterate-1", "iterate-2")[:policies]
    responses = {name: rollouts(ANSWERS[index], ASKED) for index, name in enumerate(names)}
    return HeldOut(
        prompts=responses["base"].prompts,
        responses=responses,
        judge=oracle or panel(),
        score=lambda name, given_rollouts: given_rollouts.logps.sum(-1) - 0.25 * (name != names[-1]),
        key=jax.random.key(0) if key is None else key,
        trainer=trainer or Panel((Weighted(Brevity(), 1.0, 0.1),)),
        pairs=PAIRS,
    )
