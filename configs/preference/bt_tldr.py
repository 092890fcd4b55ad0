"""A reward model of summaries of Reddit posts (Bradley & Terry 1952): `gpm_tldr` with one output.

jaxalign train configs/preference/bt_tldr.py --workdir runs/bt_tldr
"""

import dataclasses

from gpm_tldr import MODEL
from gpm_tldr import experiment as gpm

from jaxalign.losses.bradley_terry import BradleyTerry

experiment = dataclasses.replace(
    gpm, model=dataclasses.replace(MODEL, outputs=1, names=("reward",)), loss=BradleyTerry()
)
