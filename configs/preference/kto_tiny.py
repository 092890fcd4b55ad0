"""KTO on answers that were judged one by one (Ethayarajh et al. 2024, arXiv 2402.01306), in seconds: what tests use.

jaxalign train configs/preference/kto_tiny.py --workdir runs/kto_tiny

Good and bad answers are those of `desirable_tiny`. Pairs of your own, taken apart: `Alone(Pairs(File("mine.jsonl")))`.
"""

import dataclasses

from desirable_tiny import experiment as classifier
from dpo_tiny import experiment as dpo

from jaxalign.losses.kto import KTO

experiment = dataclasses.replace(dpo, feedback=classifier.feedback, loss=KTO(beta=0.1))
