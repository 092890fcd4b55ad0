"""A fork of losses_dpo.py: robust DPO, labels taken to be flipped one time in ten.

jaxalign train configs/preference/losses_robust.py --workdir runs/losses/robust --seeds 2
"""

import dataclasses

from losses_dpo import experiment as dpo

from jaxalign.losses.robust_dpo import RobustDPO

experiment = dataclasses.replace(dpo, loss=RobustDPO(beta=0.1, flips=0.1))
