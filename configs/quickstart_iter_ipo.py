"""Iterative IPO: the quickstart with the IPO loss and the anchor swapped every iteration. Azar et al. 2023.

jaxalign train configs/quickstart_iter_ipo.py --workdir runs/quickstart_iter_ipo
"""

import dataclasses

from quickstart import LOSS
from quickstart import experiment as comal

from jaxalign.losses.ipo import IPO

experiment = dataclasses.replace(comal, loss=IPO(tau=LOSS.eta), swap_every=1)
