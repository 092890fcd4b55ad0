"""MPO on the three-action game: magnetic mirror descent whose magnet follows every twelve iterations.

Wang et al. 2024 (arXiv 2410.16714). A step of it, π′ ∝ [π magnet^(step·tau) exp(step P)]^(1 / (1 + step·tau)), is
INPO's of size step / (1 + step·tau): INPO with eta = 1/step + tau. So MPO is COMAL with a smaller step.

    jaxalign train configs/games/three_action_mpo.py --workdir runs/three_action_mpo

Expected: `nash/gap` 1.3e-3 after 72 iterations and 2e-5 after 120, as `Magnetic` in `jaxalign.games`.
"""

import dataclasses

from three_action import STEP, TAU
from three_action import experiment as three_action

from jaxalign.losses.inpo import INPO

experiment = dataclasses.replace(three_action, loss=INPO(eta=1 / STEP + TAU, tau=TAU))
