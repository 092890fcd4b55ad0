"""SimPO on recorded pairs, without a reference (Meng et al. 2024, arXiv 2405.14734), in seconds: what tests use.

jaxalign train configs/preference/simpo_tiny.py --workdir runs/simpo_tiny

Another objective is another loss: `jaxalign losses` lists them, and `Composed` and `SumOf` make more.
"""

import dataclasses

from dpo_tiny import experiment as dpo

from jaxalign.losses.simpo import SimPO

experiment = dataclasses.replace(dpo, loss=SimPO(beta=2.0, gamma_ratio=0.5))
