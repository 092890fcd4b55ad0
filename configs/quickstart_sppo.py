"""SPPO: the quickstart with the SPPO loss and the anchor swapped every iteration. Wu et al. 2024 (arXiv 2405.00675).

It reads no label of a pair but each answer's win rate against the answers sampled with it, the panel's probabilities
meaned (eq. 4.4); which answers are paired only says how often each is seen, and with all pairs that is equally often.
`eta` is the quickstart's step, the inverse of what it has before the KL to the last policy; the paper's own 1e3 suits
its learning rate of 5e-7. An answer meets itself among the six, a win rate of 1/2, so that the step is 5/6 of that.

jaxalign train configs/quickstart_sppo.py --workdir runs/quickstart_sppo
"""

import dataclasses

from quickstart import LOSS
from quickstart import experiment as comal

from jaxalign.losses.sppo import SPPO

experiment = dataclasses.replace(comal, loss=SPPO(eta=1 / LOSS.eta), swap_every=1)
