"""DNO on the three-action game: multiplicative weights by a cross-entropy, whose last iterate spirals away.

Rosset et al. 2024 (arXiv 2404.03715). The loss is flatter than a squared one by eta²/8, so its rate is larger.

    jaxalign train configs/games/three_action_dno.py --workdir runs/three_action_dno

Expected: `nash/gap` 0.42 after 36 iterations.
"""

import dataclasses

from three_action import STEP
from three_action import experiment as three_action

from jaxalign.losses.dno import DNO
from jaxalign.training.optim import GradientDescent

experiment = dataclasses.replace(
    three_action,
    loss=DNO(eta=1 / STEP),
    optimizer=GradientDescent(learning_rate=9.0),
    swap_every=None,
    iterations=36,
)
