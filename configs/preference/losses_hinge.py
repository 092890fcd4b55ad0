"""A fork of losses_dpo.py: the hinge of sequence likelihood calibration.

jaxalign train configs/preference/losses_hinge.py --workdir runs/losses/hinge --seeds 2
"""

import dataclasses

from losses_dpo import experiment as dpo

from jaxalign.losses.hinge import HingePO

experiment = dataclasses.replace(dpo, loss=HingePO(beta=0.1))
