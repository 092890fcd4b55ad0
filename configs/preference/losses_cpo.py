"""A fork of losses_dpo.py: contrastive preference optimisation, without a reference.

jaxalign train configs/preference/losses_cpo.py --workdir runs/losses/cpo --seeds 2
"""

import dataclasses

from losses_dpo import experiment as dpo

from jaxalign.losses.cpo import CPO

experiment = dataclasses.replace(dpo, loss=CPO(beta=0.1))
