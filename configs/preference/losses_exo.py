"""A fork of losses_dpo.py: EXO.

jaxalign train configs/preference/losses_exo.py --workdir runs/losses/exo --seeds 2
"""

import dataclasses

from losses_dpo import experiment as dpo

from jaxalign.losses.exo import EXO

experiment = dataclasses.replace(dpo, loss=EXO(beta=0.1))
