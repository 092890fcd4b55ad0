"""DNO on cyclic_strings.py, at the same step size: multiplicative weights, by win rates among the samples.

Rosset et al. 2024 (arXiv 2404.03715). Win rates are the oracle's own probabilities: less noise than eight votes a pair.

    jaxalign train configs/games/cyclic_strings_dno.py --workdir runs/cyclic_strings_dno
"""

import dataclasses

from cyclic_strings import STEP
from cyclic_strings import experiment as cyclic_strings

from jaxalign.losses.dno import DNO

experiment = dataclasses.replace(cyclic_strings, loss=DNO(eta=1 / STEP), swap_every=None)
