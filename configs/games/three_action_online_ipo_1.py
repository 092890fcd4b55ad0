"""Online IPO 1 on the three-action game: one gradient step an iteration, on all pairs evenly, against the policy.

Zhou et al. 2025 (arXiv 2503.08942), whose name it is. On a table such a step is one of mirror descent: `INPO` in
`jaxalign.games`, to the equilibrium that is regularised around the start.

    jaxalign train configs/games/three_action_online_ipo_1.py --workdir runs/three_action_online_ipo_1

Expected: `nash/gap` 0.0589 after 72 iterations, towards 0.0588.
"""

import dataclasses

from three_action import FEEDBACK, STEP, TAU
from three_action import experiment as three_action

from jaxalign.losses.win_rate_regression import WinRateRegression
from jaxalign.pairings.even_pairs import EvenPairs
from jaxalign.training.optim import GradientDescent
from jaxalign.training.step import Fit

experiment = dataclasses.replace(
    three_action,
    feedback=dataclasses.replace(FEEDBACK, pairing=EvenPairs()),
    loss=WinRateRegression(eta=TAU, tau=TAU),
    # The mean over three pairs of squared errors has the slope 2 (log π/anchor − P/tau).
    optimizer=GradientDescent(learning_rate=STEP * TAU / 2),
    fit=Fit(batch_size=3),
    swap_every=None,
)
