"""Iterative IPO on cyclic_strings.py, at the same step size: multiplicative weights, whose last iterate spirals away.

Azar et al. 2023 (arXiv 2310.12036), iterated.

Expected: `nash/gap` circles; after 36 iterations 0.31 to 0.49 (five seeds).

    jaxalign train configs/games/cyclic_strings_iter_ipo.py --workdir runs/cyclic_strings_iter_ipo
"""

import dataclasses

from cyclic_strings import STEP
from cyclic_strings import experiment as cyclic_strings

from jaxalign.losses.ipo import IPO

experiment = dataclasses.replace(cyclic_strings, loss=IPO(tau=1 / STEP), swap_every=1)
