"""INPO: the quickstart with the anchor fixed at the base policy. Zhang et al. 2024 (arXiv 2407.00617).

jaxalign train configs/quickstart_inpo.py --workdir runs/quickstart_inpo
"""

import dataclasses

from quickstart import experiment as comal

experiment = dataclasses.replace(comal, swap_every=None)
