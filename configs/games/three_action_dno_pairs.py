"""DNO's practical form on the three-action game: DPO on pairs that win rates tell apart, against the last policy.

Rosset et al. 2024 (DNO-Prct, arXiv 2404.03715, section 4), without a teacher's answers. The better answer is chosen
for certain, so no policy minimises the loss: a fit is one gradient step.

    jaxalign train configs/games/three_action_dno_pairs.py --workdir runs/three_action_dno_pairs

Expected: the last iterate spirals away; `nash/gap` 0.47 after 36 iterations.
"""

import dataclasses

from three_action import FEEDBACK
from three_action import experiment as three_action

from jaxalign.losses.dpo import DPO
from jaxalign.pairings.large_margin import LargeMargin
from jaxalign.training.optim import GradientDescent
from jaxalign.training.step import Fit

experiment = dataclasses.replace(
    three_action,
    feedback=dataclasses.replace(FEEDBACK, pairing=LargeMargin(margin=0.1)),
    loss=DPO(beta=0.1),
    optimizer=GradientDescent(learning_rate=6.0),
    fit=Fit(batch_size=3),
    swap_every=1,
    iterations=36,
)
