"""The quickstart with LoRA: the base stays, differences of rank 16 on every matrix of the blocks are trained.

Hu et al. 2021 (arXiv 2106.09685). A fork of quickstart.py: the same loop, prompts and judges; references are the same
base with another iterate's differences, checkpoints hold 20 MB instead of 0.5 GB. LoRA wants larger steps than full
training; 4e-4 is a guess, for this recipe has not been run to its end yet.

    jaxalign train configs/quickstart_lora.py --workdir runs/quickstart_lora
    jaxalign export runs/quickstart_lora DIR --adapter       the differences alone, for PEFT; without --adapter merged
"""

import dataclasses

from quickstart import experiment as quickstart

from jaxalign.models.lora import LoRA
from jaxalign.training.optim import AdamW, WarmupLinear

experiment = dataclasses.replace(
    quickstart,
    model=LoRA(quickstart.model, rank=16, alpha=32.0),
    optimizer=AdamW(WarmupLinear(peak=4e-4, warmup=0.1)),
)
