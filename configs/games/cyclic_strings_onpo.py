"""ONPO on cyclic_strings.py: optimistic steps of half the size, without an anchor to pull.

Zhang et al. 2025 (arXiv 2502.16852). The fit asks for twice ONPO's step from its auxiliary policy
(`references.auxiliary`): for the margins that the other learners ask for. Exact optimistic steps of the size of theirs
circle on these games; of half the size they come from the uniform policy to a gap of 0.006 (`games.learners.onpo`).

    jaxalign train configs/games/cyclic_strings_onpo.py --workdir runs/cyclic_strings_onpo
"""

import dataclasses

from cyclic_strings import STEP
from cyclic_strings import experiment as cyclic_strings

from jaxalign.losses.ipo import IPO
from jaxalign.references.auxiliary import Auxiliary

experiment = dataclasses.replace(cyclic_strings, loss=IPO(tau=1 / STEP), reference=Auxiliary(), swap_every=1)
