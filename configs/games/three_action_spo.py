"""SPO on the three-action game: self-play policy gradient, win rates against the policy's own answers as rewards.

Swamy et al. 2024 (arXiv 2401.04056): `OnlineIPO` without a pull, in `jaxalign.games`. The mean of its iterates is what
the paper speaks of; the last one circles.

    jaxalign train configs/games/three_action_spo.py --workdir runs/three_action_spo

Expected: `nash/gap` 0.12 after ten iterations, 0.33 after 72.
"""

import dataclasses

from three_action import FEEDBACK, STEP
from three_action import experiment as three_action

from jaxalign.losses.self_play_gradient import SelfPlayGradient
from jaxalign.pairings.every_answer import EveryAnswer
from jaxalign.training.optim import GradientDescent
from jaxalign.training.step import Fit

experiment = dataclasses.replace(
    three_action,
    feedback=dataclasses.replace(FEEDBACK, pairing=EveryAnswer()),
    loss=SelfPlayGradient(beta=0.0),
    optimizer=GradientDescent(learning_rate=STEP),
    fit=Fit(batch_size=3),
    swap_every=None,
    iterations=72,
)
