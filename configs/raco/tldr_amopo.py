"""A fork of tldr.py: AMoPO, by mean log-probs without a reference; its held-out margins are of log-probs themselves.
Fronts show what they gain over the base.

jaxalign train configs/raco/tldr_amopo.py --workdir runs/tldr_amopo
jaxalign sweep configs/raco/tldr_amopo.py --workdir runs/amopo --loss.weights 0.1,0.9 --loss.weights 0.9,0.1
"""

import dataclasses

from tldr import experiment as raco

from jaxalign.losses.amopo import AMoPO
from jaxalign.objectives.mixed import Mixed

experiment = dataclasses.replace(raco, loss=AMoPO((0.8, 0.2), beta=0.8), combiner=Mixed())
