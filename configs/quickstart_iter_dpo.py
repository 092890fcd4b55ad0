"""Iterative DPO: the quickstart with the DPO loss and the anchor swapped every iteration. Xiong et al. 2024.

jaxalign train configs/quickstart_iter_dpo.py --workdir runs/quickstart_iter_dpo
"""

import dataclasses

from quickstart import experiment as comal

from jaxalign.losses.dpo import DPO

experiment = dataclasses.replace(comal, loss=DPO(beta=0.1), swap_every=1)
