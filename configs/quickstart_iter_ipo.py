"""Iterative IPO: the quickstart with the IPO loss and the anchor swapped every iteration. Azar et al. 2023.

Its theorem (arXiv 2310.12036, eq. 17) is of pairs of the policy with votes drawn at the panel's probability. A label
that is that probability gives the same expected loss but for a constant: all pairs with soft labels are its law,
without the noise of votes. `tau` is what the quickstart has before the KL to the last policy, so that the margins
wanted of a pair are as wide.

jaxalign train configs/quickstart_iter_ipo.py --workdir runs/quickstart_iter_ipo
"""

import dataclasses

from quickstart import LOSS
from quickstart import experiment as comal

from jaxalign.losses.ipo import IPO

experiment = dataclasses.replace(comal, loss=IPO(tau=LOSS.eta), swap_every=1)
