"""DPO among objectives that are trained alike: pairs of summaries, SmolLM2-135M with LoRA, the same steps for each.

    jaxalign train configs/preference/losses_dpo.py --workdir runs/losses/dpo --seeds 2
    make loss-table      the twelve of losses_*.py, two seeds each, and a table of held-out accuracy and margin; hours

Each losses_*.py is a fork of this one with another loss, its settings the paper's or TRL's. Data, split, optimizer,
steps and the order of pairs are the same, and the last step is the policy; a seed has an order and adapters of its own.
Rates are tuned for none of them. Margins are of log π/π_anchor, or of log π where a loss reads no anchor, and compare
losses of one kind; accuracies compare all. Pairs count with the probability of their label (`dpo_tldr.py`).
"""

import dataclasses

from dpo_tldr import FEEDBACK
from dpo_tldr import experiment as full

from jaxalign.models.lora import LoRA
from jaxalign.training.one_prompt import OnePrompt
from jaxalign.training.optim import AdamW, WarmupLinear
from jaxalign.training.step import Fit

experiment = dataclasses.replace(
    full,
    model=LoRA(full.model, rank=16, alpha=32.0),
    feedback=FEEDBACK,
    optimizer=AdamW(WarmupLinear(peak=2e-4, warmup=0.1)),
    fit=Fit(batch_size=4, rows=OnePrompt(shapes=4), scored_rows=OnePrompt(16, shapes=4), checkpoint_every=20),
)
