"""A fork of losses_dpo.py: noise contrastive alignment.

jaxalign train configs/preference/losses_nca.py --workdir runs/losses/nca --seeds 2
"""

import dataclasses

from losses_dpo import experiment as dpo

from jaxalign.losses.nca import NCA

experiment = dataclasses.replace(dpo, loss=NCA(beta=0.1))
