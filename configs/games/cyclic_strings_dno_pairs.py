"""DNO's practical form on cyclic_strings.py: DPO on pairs that win rates tell apart, against the last policy.

Rosset et al. 2024 (DNO-Prct, arXiv 2404.03715, section 4), without a teacher. Labels are certain, so fits are short:
no policy minimises them, and at the other learners' rate, 5e-3, samples are soon all the same.

    jaxalign train configs/games/cyclic_strings_dno_pairs.py --workdir runs/cyclic_strings_dno_pairs
"""

import dataclasses

from cyclic_strings import FEEDBACK, STEP
from cyclic_strings import experiment as cyclic_strings

from jaxalign.losses.dpo import DPO
from jaxalign.pairings.large_margin import LargeMargin
from jaxalign.training.one_prompt import OnePrompt
from jaxalign.training.optim import AdamW, WarmupLinear
from jaxalign.training.step import Fit

ALL = 351
"""Pairs of 27 answers."""

experiment = dataclasses.replace(
    cyclic_strings,
    feedback=dataclasses.replace(FEEDBACK, pairing=LargeMargin(margin=0.1)),
    loss=DPO(beta=4 / STEP),
    optimizer=AdamW(WarmupLinear(peak=1e-3)),
    fit=Fit(batch_size=12 * ALL, rows=OnePrompt(ALL), epochs=10, checkpoint_every=1000),
    swap_every=1,
)
