"""A fork of tldr.py: DPO-LW, the weighted sum of the two gradients.

jaxalign train configs/raco/tldr_weighted.py --workdir runs/tldr_weighted
"""

import dataclasses

from tldr import experiment as raco

from jaxalign.objectives.weighted_sum import WeightedSum

experiment = dataclasses.replace(raco, combiner=WeightedSum((0.8, 0.2)))
