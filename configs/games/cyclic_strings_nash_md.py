"""Nash-MD on cyclic_strings.py: every token is drawn from the mixture of the policy and the base, share 0.6.

Munos et al. 2023 (arXiv 2312.00886). INPO on answers of the mixture. It is one token by token: another one than that of
whole answers, which the theorem is of.

    jaxalign train configs/games/cyclic_strings_nash_md.py --workdir runs/cyclic_strings_nash_md
"""

import dataclasses

from cyclic_strings import FEEDBACK, STEP, TAU
from cyclic_strings import experiment as cyclic_strings

from jaxalign.rollouts.geometric_mixture import GeometricMixture

experiment = dataclasses.replace(
    cyclic_strings,
    feedback=dataclasses.replace(FEEDBACK, rollout=GeometricMixture(FEEDBACK.rollout, share=STEP * TAU)),
    swap_every=None,
)
