"""INPO on cyclic_strings.py: the anchor stays, and so does the gap of the game regularised around the base policy.

Zhang et al. 2024 (arXiv 2407.00617).

Expected: `nash/gap` 0.38 from the twelfth iteration on, as without any noise.

    jaxalign train configs/games/cyclic_strings_inpo.py --workdir runs/cyclic_strings_inpo
"""

import dataclasses

from cyclic_strings import experiment as cyclic_strings

experiment = dataclasses.replace(cyclic_strings, swap_every=None)
