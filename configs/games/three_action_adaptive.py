"""Adaptive COMAL on the three-action game: the anchor moves when the inner problem is solved. A fork of three_action.py.

Its answers are enumerated, so the certificate is exact: a swap whenever KL(μ ‖ BR(μ)) is a tenth of KL(μ ‖ anchor).

    jaxalign train configs/games/three_action_adaptive.py --workdir runs/three_action_adaptive

Expected: the first swaps at iterations 22 and 43 (`align/anchor`), `nash/gap` 2.5e-3 after 120 iterations. Twelve
iterations a swap are faster (5e-8, three_action.py), for who knows that twelve are enough; eleven are on this game,
and one diverges.
"""

import dataclasses

from three_action import experiment as three_action

from jaxalign.anchors.adaptive import Adaptive

experiment = dataclasses.replace(three_action, swap_every=Adaptive())
