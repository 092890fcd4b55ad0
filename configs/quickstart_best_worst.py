"""The quickstart with ranked pairs: of each prompt's answers the best against the worst, certain of it.

The pairing of INPO's and SPPO's papers (arXiv 2407.00617, 2405.00675). The same prompts and the same answers as in the
quickstart, and as many prompts a step, so as many steps; but one pair of a prompt instead of all, and rows of two
answers instead of all: its fits compute less, by about the number of answers over two. Ranked pairs are not the law of
INPO's theorem: this solves another game, of the signs of the preferences (`jaxalign.pairs`).

jaxalign train configs/quickstart_best_worst.py --workdir runs/quickstart_best_worst
"""

import dataclasses

from quickstart import experiment as comal

from jaxalign.feedback.sampled import Sampled, pairs_of_a_prompt
from jaxalign.pairs import BestWorst
from jaxalign.rollouts.sample import Sample
from jaxalign.training.one_prompt import OnePrompt

assert isinstance(comal.feedback, Sampled)
assert isinstance(comal.feedback.rollout, Sample)
PAIRS = pairs_of_a_prompt(comal.feedback.pairing, comal.feedback.rollout.samples)

experiment = dataclasses.replace(
    comal,
    feedback=dataclasses.replace(comal.feedback, pairing=BestWorst()),
    fit=dataclasses.replace(comal.fit, batch_size=comal.fit.batch_size // PAIRS, rows=OnePrompt()),
)
