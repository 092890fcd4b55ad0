"""Nash-MD on the three-action game: mirror descent from, and against, the mixture with the start.

Munos et al. 2023 (arXiv 2312.00886). INPO on answers of the mixture whose share is tau/eta of its loss.

    jaxalign train configs/games/three_action_nash_md.py --workdir runs/three_action_nash_md

Expected: `nash/gap` 0.080: at a constant step it settles near the regularised equilibrium (0.0588), not at it.
"""

import dataclasses

from three_action import FEEDBACK, STEP, TAU
from three_action import experiment as three_action

from jaxalign.rollouts.enumerate import Enumerate
from jaxalign.rollouts.geometric_mixture import GeometricMixture

experiment = dataclasses.replace(
    three_action,
    feedback=dataclasses.replace(FEEDBACK, rollout=GeometricMixture(Enumerate(), share=STEP * TAU)),
    swap_every=None,
)
