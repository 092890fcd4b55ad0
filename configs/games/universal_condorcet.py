"""Universal alignment through the training loop: two samples that satisfy a population whose majority cycles.

Cai & Zheng 2026 (arXiv 2601.08777); COMAL's outer loop on their (k + 1)-player game is ours. Three users in the
proportions 5 : 3 : 2 rank a, b, c cyclically; at the symmetric equilibrium of the three-player game two samples of
the policy win against any single answer with probability 2/3, and no policy does better.

    jaxalign train configs/games/universal_condorcet.py --workdir runs/universal_condorcet
    jaxalign report runs/universal_condorcet

`nash/gap` is 2/3 minus the robust win rate. Expected: from 0.15 to 1.3e-5 after 72 iterations.
"""

import dataclasses

from three_action import FEEDBACK, PROMPT
from three_action import experiment as three_action

from jaxalign.evals.nash_gap import NashGap
from jaxalign.experiment import Evaluation
from jaxalign.losses.inpo import INPO
from jaxalign.oracles.population import RankingPopulation
from jaxalign.rollouts.enumerate import Enumerate

experiment = dataclasses.replace(
    three_action,
    feedback=dataclasses.replace(
        FEEDBACK,
        oracle=RankingPopulation(rankings=((2, 1, 0), (0, 2, 1), (1, 0, 2)), weights=(0.5, 0.3, 0.2), k=2),
    ),
    # Half the step of a matrix game: the step size is 4 and tau 0.05 in `jaxalign.games`.
    loss=INPO(eta=1 / 8, tau=0.025),
    swap_every=6,
    iterations=72,
    evaluation=Evaluation(prompts=PROMPT, rollout=Enumerate(), evals=(NashGap(),)),
)
