"""Online IPO 2 on the three-action game: one gradient step an iteration, on the policy's own pairs.

Calandriello et al. 2024 (arXiv 2403.08635). The same fixed point as online IPO 1, but every answer moves in proportion
to its probability: `OnlineIPO` in `jaxalign.games`. With `rollout=GeometricMixture(Enumerate(), share)` it is IPO-MD.

    jaxalign train configs/games/three_action_online_ipo_2.py --workdir runs/three_action_online_ipo_2

Expected: `nash/gap` towards 0.0588; 0.065 after 72 iterations.
"""

import dataclasses

from three_action import TAU
from three_action import experiment as three_action

from jaxalign.losses.ipo import IPO
from jaxalign.training.optim import GradientDescent
from jaxalign.training.step import Fit

experiment = dataclasses.replace(
    three_action,
    loss=IPO(tau=TAU),
    optimizer=GradientDescent(learning_rate=0.025),
    fit=Fit(batch_size=3),
    swap_every=None,
)
