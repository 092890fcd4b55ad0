"""A fork of tldr.py: MGDA, which has no weights: its front is a point.

jaxalign train configs/raco/tldr_mgda.py --workdir runs/tldr_mgda
"""

import dataclasses

from tldr import experiment as raco

from jaxalign.objectives.mgda import MGDA

experiment = dataclasses.replace(raco, combiner=MGDA(objectives=2))
