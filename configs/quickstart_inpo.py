"""INPO: the quickstart with the anchor fixed at the base policy. Zhang et al. 2024 (arXiv 2407.00617).

The control for the swap. The theorem is of the same law of pairs and labels as COMAL's, drawn i.i.d. from the policy
and labelled with the panel's probability: this goes to the Nash policy of the game that is regularised towards the
base, COMAL to that of the game itself.

jaxalign train configs/quickstart_inpo.py --workdir runs/quickstart_inpo
"""

import dataclasses

from quickstart import experiment as comal

experiment = dataclasses.replace(comal, swap_every=None)
