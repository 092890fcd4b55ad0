"""A reward model of dialogues of which people preferred one ending (Bai et al. 2022, arXiv 2204.05862): a frozen trunk.

jaxalign train configs/preference/bt_hh.py --workdir runs/bt_hh

A fork of bt_tldr.py on the data of dpo_hh.py, a fifth of the dialogues held out; what is said there of the file holds.
One run told the preferred one of .643 [.599, .687] of 442 pairs (`BENCHMARKS.md`).
"""

import dataclasses

from bt_tldr import experiment as tldr
from dpo_hh import HH

from jaxalign.data.comparisons.by_prompt import ByPrompt
from jaxalign.feedback.recorded import Recorded

experiment = dataclasses.replace(
    tldr,
    feedback=Recorded(
        pairs=ByPrompt(HH, 0.2, 1.0), heldout=ByPrompt(HH, 0.0, 0.2), max_prompt_tokens=1024, max_tokens=512
    ),
)
