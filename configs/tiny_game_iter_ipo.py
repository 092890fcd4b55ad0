"""Iterative IPO on the three-action game: multiplicative weights, whose last iterate spirals away from the Nash policy.

Azar et al. 2023 (arXiv 2310.12036), iterated. A fork of tiny_game.py: IPO against an anchor that is swapped every
iteration.

    jaxalign train configs/tiny_game_iter_ipo.py --workdir runs/tiny_game_iter_ipo
"""

import dataclasses

from tiny_game import experiment as comal

from jaxalign.losses.ipo import IPO

experiment = dataclasses.replace(comal, loss=IPO(tau=1 / 1.5), swap_every=1, iterations=36)
