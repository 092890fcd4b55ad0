"""ONPO on the three-action game: optimistic steps, whose last iterate reaches the Nash policy without an anchor.

Zhang et al. 2025 (arXiv 2502.16852). Twice the step from the auxiliary policy, which is a blend of those that played
(`references.auxiliary`).

    jaxalign train configs/games/three_action_onpo.py --workdir runs/three_action_onpo

Expected: `nash/gap` 4e-3 after 72 iterations, 3e-4 after 120.
"""

import dataclasses

from three_action import STEP
from three_action import experiment as three_action

from jaxalign.losses.ipo import IPO
from jaxalign.references.auxiliary import Auxiliary

experiment = dataclasses.replace(
    three_action, loss=IPO(tau=1 / (2 * STEP)), reference=Auxiliary(depth=16), swap_every=1
)
