"""SPPO: the quickstart with the SPPO loss and the anchor swapped every iteration. Wu et al. 2024 (arXiv 2405.00675).

`eta` is chosen so that an answer that always wins is aimed at the same log-ratio as under the quickstart's loss, 5
nats; the paper's own 1e3 suits its learning rate of 5e-7.

    jaxalign train configs/quickstart_sppo.py --workdir runs/quickstart_sppo
"""

import dataclasses

from quickstart import experiment as comal

from jaxalign.losses.sppo import SPPO

experiment = dataclasses.replace(comal, loss=SPPO(eta=10.0), swap_every=1)
