"""SPO on cyclic_strings.py: self-play policy gradient on every answer, win rates among the samples as rewards.

Swamy et al. 2024 (arXiv 2401.04056). The gradient is the policy's own only where a fit begins, so fits are short. The
value of the loss says nothing, and so no pairs are left out to measure it. At the other learners' rate, 5e-3, the
policy runs into a corner in a few iterations (`BENCHMARKS.md`).

    jaxalign train configs/games/cyclic_strings_spo.py --workdir runs/cyclic_strings_spo
"""

import dataclasses

from cyclic_strings import FEEDBACK
from cyclic_strings import experiment as cyclic_strings

from jaxalign.losses.self_play_gradient import SelfPlayGradient
from jaxalign.pairings.every_answer import EveryAnswer
from jaxalign.training.one_prompt import OnePrompt
from jaxalign.training.optim import AdamW, WarmupLinear
from jaxalign.training.step import Fit

ANSWERS = 27

experiment = dataclasses.replace(
    cyclic_strings,
    feedback=dataclasses.replace(FEEDBACK, pairing=EveryAnswer(), unseen=0.0),
    loss=SelfPlayGradient(beta=0.0),
    optimizer=AdamW(WarmupLinear(peak=5e-4)),
    fit=Fit(batch_size=16 * ANSWERS, rows=OnePrompt(ANSWERS), epochs=5, checkpoint_every=1000),
    swap_every=None,
)
