"""COMAL on rock-paper-scissors (each beats the one before it with probability 0.9): interior Nash policy, uniform.

A fork of three_action.py, started far from the Nash policy.

    jaxalign train configs/games/rock_paper_scissors.py --workdir runs/rock_paper_scissors
"""

import dataclasses

from three_action import FEEDBACK, PROMPT
from three_action import experiment as three_action

from jaxalign.evals.nash_gap import NashGap
from jaxalign.experiment import Evaluation
from jaxalign.games.families import cyclic
from jaxalign.models.tabular import TabularPolicy
from jaxalign.oracles.tabular import TabularGame
from jaxalign.rollouts.enumerate import Enumerate

experiment = dataclasses.replace(
    three_action,
    model=TabularPolicy(init=(0.7, 0.2, 0.1)),
    feedback=dataclasses.replace(FEEDBACK, oracle=TabularGame(tuple(map(tuple, cyclic(3).tolist())))),
    evaluation=Evaluation(prompts=PROMPT, rollout=Enumerate(), evals=(NashGap(nash=(1 / 3, 1 / 3, 1 / 3)),)),
)
