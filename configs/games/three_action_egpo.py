"""EGPO on the three-action game: two gradient steps, the second from where the first began, against where it led.

Zhou et al. 2025 (arXiv 2503.08942). A fork of three_action_online_ipo_1.py.

    jaxalign train configs/games/three_action_egpo.py --workdir runs/three_action_egpo

Expected: `nash/gap` 0.0588 after 72 iterations, which are 36 steps; online IPO 1 needs as many steps as iterations.
"""

import dataclasses

from three_action_online_ipo_1 import experiment as online_ipo_1

from jaxalign.step_rules.extragradient import Extragradient

experiment = dataclasses.replace(online_ipo_1, step_rule=Extragradient())
