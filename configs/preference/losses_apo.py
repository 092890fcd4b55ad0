"""A fork of losses_dpo.py: anchored preference optimisation, zero.

jaxalign train configs/preference/losses_apo.py --workdir runs/losses/apo --seeds 2
"""

import dataclasses

from losses_dpo import experiment as dpo

from jaxalign.losses.anchored import APOZero

experiment = dataclasses.replace(dpo, loss=APOZero(beta=0.1))
