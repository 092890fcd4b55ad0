"""The quickstart's control: COMAL on pairs turned at random, judged by the panel as it is.

The same prompts, answers, steps and strengths of labels (`oracles.randomly_oriented`): a pair says as much as the
quickstart's, but nothing of what the panel likes. Held-out answers are judged by the panel itself. What this policy
wins against its base is what drift, length and the optimizer win without any preference; what the quickstart wins
beyond it is what it has learned.

jaxalign train configs/quickstart_random.py --workdir runs/quickstart_random
"""

import dataclasses

from quickstart import experiment as comal

from jaxalign.feedback.sampled import Sampled
from jaxalign.oracles.randomly_oriented import RandomlyOriented

assert isinstance(comal.feedback, Sampled)
experiment = dataclasses.replace(
    comal,
    feedback=dataclasses.replace(comal.feedback, oracle=RandomlyOriented(comal.feedback.oracle)),
    evaluation=dataclasses.replace(comal.evaluation, oracle=comal.judge),
)
