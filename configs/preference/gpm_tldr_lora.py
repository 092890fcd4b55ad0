"""The preference model of gpm_tldr.py, its trunk adapted: LoRA on the first 12 layers of SmolLM2-135M, on a laptop.

    jaxalign train configs/preference/gpm_tldr_lora.py --workdir runs/gpm_tldr_lora
    jaxalign export runs/gpm_tldr_lora runs/judge

A row is a post with its summaries, which some twenty pairs have in common: the 10,010 pairs of an epoch are 502
thousand tokens and not 5.04 million. One run told the preferred one of .720 [.701, .739] of 7,070 pairs of other posts,
of which the head of gpm_tldr.py on a frozen trunk told .701 [.681, .722] (`BENCHMARKS.md`).
"""

import dataclasses

from gpm_tldr import FEEDBACK
from gpm_tldr import experiment as frozen

from jaxalign.models.headed import Headed
from jaxalign.models.lora import LoRA
from jaxalign.models.pretrained import SmolLM2
from jaxalign.training.one_prompt import OnePrompt
from jaxalign.training.optim import AdamW, WarmupLinear
from jaxalign.training.step import Fit

experiment = dataclasses.replace(
    frozen,
    model=LoRA(Headed(SmolLM2(), outputs=8, layers=12), rank=16, alpha=32.0),
    feedback=dataclasses.replace(FEEDBACK, max_tokens=128),
    optimizer=AdamW(WarmupLinear(peak=3e-4, warmup=0.1), weight_decay=0.01),
    fit=Fit(batch_size=48, rows=OnePrompt(24, shapes=6), checkpoint_every=50),
)
