"""A fork of losses_dpo.py: SimPO, without a reference.

jaxalign train configs/preference/losses_simpo.py --workdir runs/losses/simpo --seeds 2
"""

import dataclasses

from losses_dpo import experiment as dpo

from jaxalign.losses.simpo import SimPO

experiment = dataclasses.replace(dpo, loss=SimPO(beta=2.0, gamma_ratio=0.5))
