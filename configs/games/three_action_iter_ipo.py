"""Iterative IPO on the three-action game: multiplicative weights, whose last iterate spirals away from the Nash policy.

Azar et al. 2023 (arXiv 2310.12036), iterated. A fork of three_action.py: IPO against an anchor that is swapped every
iteration.

    jaxalign train configs/games/three_action_iter_ipo.py --workdir runs/three_action_iter_ipo
"""

import dataclasses

from three_action import experiment as three_action

from jaxalign.losses.ipo import IPO

experiment = dataclasses.replace(three_action, loss=IPO(tau=1 / 1.5), swap_every=1, iterations=36)
