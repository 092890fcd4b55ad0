"""A fork of losses_dpo.py: ORPO, without a reference.

jaxalign train configs/preference/losses_orpo.py --workdir runs/losses/orpo --seeds 2
"""

import dataclasses

from losses_dpo import experiment as dpo

from jaxalign.losses.orpo import ORPO

experiment = dataclasses.replace(dpo, loss=ORPO(weight=0.1))
