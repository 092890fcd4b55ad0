"""INPO on the three-action game: the anchor stays, and so does a gap of 0.0588.

Zhang et al. 2024 (arXiv 2407.00617). A fork of three_action.py without the swap: the last iterate converges to the
equilibrium of the game regularised around the start, (.2749, .2797, .4454).

    jaxalign train configs/games/three_action_inpo.py --workdir runs/three_action_inpo
"""

import dataclasses

from three_action import experiment as three_action

experiment = dataclasses.replace(three_action, swap_every=None)
