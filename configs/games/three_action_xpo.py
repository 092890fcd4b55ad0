"""XPO on the three-action game: DPO on pairs of the policy's answer and the base's, with optimism about what it is not.

Xie et al. 2024 (arXiv 2405.21046). Every pair of an answer of the policy and one of the base, weighted by both laws;
`XPO` in `jaxalign.games` takes the same steps.

    jaxalign train configs/games/three_action_xpo.py --workdir runs/three_action_xpo
"""

import dataclasses

from three_action import FEEDBACK
from three_action import experiment as three_action

from jaxalign.losses.xpo import XPO
from jaxalign.pairings.against_anchor import AgainstAnchor
from jaxalign.rollouts.beside_anchor import BesideAnchor
from jaxalign.rollouts.enumerate import Enumerate
from jaxalign.training.step import Fit

experiment = dataclasses.replace(
    three_action,
    feedback=dataclasses.replace(FEEDBACK, rollout=BesideAnchor(Enumerate()), pairing=AgainstAnchor()),
    loss=XPO(beta=2.0, alpha=0.05),
    fit=Fit(batch_size=9, epochs=50),
    iterations=36,
    swap_every=None,
)
