"""Online IPO 2 on cyclic_strings.py: IPO against the base policy, short fits on the policy's own pairs.

Calandriello et al. 2024 (arXiv 2403.08635). As online IPO 1, with votes in place of win rates and pairs as often as the
policy gives them.

    jaxalign train configs/games/cyclic_strings_online_ipo_2.py --workdir runs/cyclic_strings_online_ipo_2
"""

import dataclasses

from cyclic_strings import TAU
from cyclic_strings import experiment as cyclic_strings

from jaxalign.losses.ipo import IPO

experiment = dataclasses.replace(
    cyclic_strings, loss=IPO(tau=TAU), fit=dataclasses.replace(cyclic_strings.fit, epochs=10), swap_every=None
)
