"""A fork of losses_dpo.py: alignment via optimal transport, between the 21 pairs of a post.

jaxalign train configs/preference/losses_aot.py --workdir runs/losses/aot --seeds 2
"""

import dataclasses

from losses_dpo import experiment as dpo

from jaxalign.losses.aot import AOT

experiment = dataclasses.replace(dpo, loss=AOT(beta=0.1))
