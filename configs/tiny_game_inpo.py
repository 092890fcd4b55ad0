"""INPO on the three-action game: with the anchor fixed, the last iterate stalls where the regularised game is solved.

Zhang et al. 2024 (arXiv 2407.00617). A fork of tiny_game.py: the anchor stays the base policy. The gap settles at
0.0588, the distance from the Nash policy of the game regularised towards (.2, .5, .3) with tau 0.1.

    jaxalign train configs/tiny_game_inpo.py --workdir runs/tiny_game_inpo
"""

import dataclasses

from tiny_game import experiment as comal

experiment = dataclasses.replace(comal, swap_every=None)
