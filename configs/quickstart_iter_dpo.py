"""Iterative DPO: the quickstart with the DPO loss and the anchor swapped every iteration. Xiong et al. 2024.

DPO fits the Bradley–Terry model of the label: with the panel's probability as a soft label its minimiser is finite, a
margin of logit P / beta, and in expectation that of votes drawn at this probability (arXiv 2305.18290, eq. 7). It is
the panel's preference only as far as that is Bradley–Terry's; a certain label would ask for margins without end.
`beta` is chosen so that of a pair nearly even (logit P ≈ 4 (P − 1/2)) the same margin is wanted as in the quickstart
and in iterative IPO: they differ in what they make of sure pairs, not in the size of a step.

jaxalign train configs/quickstart_iter_dpo.py --workdir runs/quickstart_iter_dpo
"""

import dataclasses

from quickstart import LOSS
from quickstart import experiment as comal

from jaxalign.losses.dpo import DPO

experiment = dataclasses.replace(comal, loss=DPO(beta=4 * LOSS.eta), swap_every=1)
