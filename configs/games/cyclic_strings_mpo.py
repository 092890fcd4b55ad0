"""MPO on cyclic_strings.py: magnetic mirror descent, the magnet follows every four iterations.

Wang et al. 2024 (arXiv 2410.16714). Its step of 12 is INPO's of 12 / (1 + 12 tau), see three_action_mpo.py; with 15 it
would be cyclic_strings.py itself.

    jaxalign train configs/games/cyclic_strings_mpo.py --workdir runs/cyclic_strings_mpo
"""

import dataclasses

from cyclic_strings import STEP, TAU
from cyclic_strings import experiment as cyclic_strings

from jaxalign.losses.inpo import INPO

experiment = dataclasses.replace(cyclic_strings, loss=INPO(eta=1 / (2 * STEP) + TAU, tau=TAU))
