"""SPPO on cyclic_strings.py, at the same step size: each log-ratio is fitted to its win rate among the samples.

Wu et al. 2024 (arXiv 2405.00675).

Expected: `nash/gap` circles; after 36 iterations 0.31 to 0.48 (five seeds).

    jaxalign train configs/games/cyclic_strings_sppo.py --workdir runs/cyclic_strings_sppo
"""

import dataclasses

from cyclic_strings import STEP
from cyclic_strings import experiment as cyclic_strings

from jaxalign.losses.sppo import SPPO

experiment = dataclasses.replace(cyclic_strings, loss=SPPO(eta=STEP), swap_every=1)
