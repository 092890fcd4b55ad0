"""Adaptive COMAL on cyclic_strings.py: the anchor moves when the corrected certificate says that the inner problem is
solved. It knows no number of iterations a swap.

    jaxalign train configs/games/cyclic_strings_adaptive.py --workdir runs/cyclic_strings_adaptive
"""

import dataclasses

from cyclic_strings import experiment as cyclic_strings

from jaxalign.anchors.adaptive import Adaptive

experiment = dataclasses.replace(cyclic_strings, swap_every=Adaptive())
