"""A fork of losses_dpo.py: weighted preference optimisation, bounded as the paper's code has it, with the others' beta.

jaxalign train configs/preference/losses_wpo.py --workdir runs/losses/wpo --seeds 2
"""

import dataclasses

from losses_dpo import experiment as dpo

from jaxalign.losses.wpo import WPO

experiment = dataclasses.replace(dpo, loss=WPO(beta=0.1))
