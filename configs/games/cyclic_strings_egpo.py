"""EGPO on cyclic_strings.py: 36 steps, each a look-ahead and a step from where it began, and a weak pull to the base.

Zhou et al. 2025 (arXiv 2503.08942), with fits that minimise. tau is a fifth of the other learners': mirror descent of
this step size circles there, extragradient does not: after 36 exact steps from the uniform policy their gaps are 0.16
and 0.015. Odd iterates look ahead.

    jaxalign train configs/games/cyclic_strings_egpo.py --workdir runs/cyclic_strings_egpo
"""

import dataclasses

from cyclic_strings import STEP, TAU
from cyclic_strings import experiment as cyclic_strings

from jaxalign.losses.inpo import INPO
from jaxalign.step_rules.extragradient import Extragradient

experiment = dataclasses.replace(
    cyclic_strings,
    loss=INPO(eta=1 / STEP, tau=TAU / 5),
    step_rule=Extragradient(),
    swap_every=None,
    iterations=72,
)
