"""A fork of tldr.py: CAGrad, without the clip.

jaxalign train configs/raco/tldr_cagrad.py --workdir runs/tldr_cagrad
"""

import dataclasses

from tldr import experiment as raco

from jaxalign.objectives.cagrad import CAGrad

experiment = dataclasses.replace(raco, combiner=CAGrad(weights=(0.8, 0.2), c=0.4))
