"""XPO on cyclic_strings.py: DPO on pairs of the policy's answer and the base's, with optimism about what it is not.

Xie et al. 2024 (arXiv 2405.21046). As many votes on as many pairs as of the other learners. Near indifference logit P
is 4 (P − 1/2): a beta of 4 / step asks for the margins that the other learners ask for.

    jaxalign train configs/games/cyclic_strings_xpo.py --workdir runs/cyclic_strings_xpo
"""

import dataclasses

from cyclic_strings import FEEDBACK, PAIRS, STEP
from cyclic_strings import experiment as cyclic_strings

from jaxalign.losses.xpo import XPO
from jaxalign.pairings.against_anchor import AgainstAnchor
from jaxalign.pairs import BernoulliLabel
from jaxalign.rollouts.beside_anchor import BesideAnchor

experiment = dataclasses.replace(
    cyclic_strings,
    feedback=dataclasses.replace(
        FEEDBACK,
        rollout=BesideAnchor(FEEDBACK.rollout),
        pairing=AgainstAnchor(BernoulliLabel(votes=8), pairs_per_prompt=PAIRS),
    ),
    loss=XPO(beta=4 / STEP, alpha=0.01),
    swap_every=None,
)
