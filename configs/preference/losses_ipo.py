"""A fork of losses_dpo.py: IPO by the token, as TRL has it.

jaxalign train configs/preference/losses_ipo.py --workdir runs/losses/ipo --seeds 2
"""

import dataclasses

from losses_dpo import experiment as dpo

from jaxalign.losses.ipo import TokenMeanIPO

experiment = dataclasses.replace(dpo, loss=TokenMeanIPO(tau=0.1))
