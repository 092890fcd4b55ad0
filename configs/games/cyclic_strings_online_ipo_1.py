"""Online IPO 1 on cyclic_strings.py: short fits on all pairs of different answers evenly, against the policy.

Zhou et al. 2025 (arXiv 2503.08942). Its minimiser is the regularised best response, which is far: a fit goes a few
steps towards it, and where it is is asked anew. Win rates are the oracle's own probabilities.

    jaxalign train configs/games/cyclic_strings_online_ipo_1.py --workdir runs/cyclic_strings_online_ipo_1
"""

import dataclasses

from cyclic_strings import FEEDBACK, TAU
from cyclic_strings import experiment as cyclic_strings

from jaxalign.losses.win_rate_regression import WinRateRegression
from jaxalign.pairings.even_pairs import EvenPairs
from jaxalign.training.one_prompt import OnePrompt
from jaxalign.training.step import Fit

ALL = 351
"""Pairs of 27 answers."""

experiment = dataclasses.replace(
    cyclic_strings,
    feedback=dataclasses.replace(FEEDBACK, pairing=EvenPairs()),
    loss=WinRateRegression(eta=TAU, tau=TAU),
    fit=Fit(batch_size=12 * ALL, rows=OnePrompt(ALL), epochs=10, checkpoint_every=1000),
    swap_every=None,
)
