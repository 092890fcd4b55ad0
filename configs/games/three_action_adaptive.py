"""Adaptive COMAL on the three-action game: the anchor moves when the inner problem is solved.

A fork of three_action.py. Answers are enumerated, so the certificate is exact: a round is closed once KL(μ ‖ BR(μ)) is
at most half of KL(μ ‖ anchor).

    jaxalign train configs/games/three_action_adaptive.py --workdir runs/three_action_adaptive

Expected: the first anchors are policies 10, 20 and 30 (`align/next_anchor`); `nash/gap` 1.5e-4 after 72 iterations and
5e-7 after 120. Twelve iterations a swap, which somebody has to know, are faster (three_action.py).
"""

import dataclasses

from three_action import experiment as three_action

from jaxalign.anchors.adaptive import Adaptive

experiment = dataclasses.replace(three_action, swap_every=Adaptive())
