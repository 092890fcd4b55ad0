"""DPO among objectives that are trained alike: pairs of summaries, SmolLM2-135M with LoRA, the same steps for each.

    jaxalign train configs/preference/losses_dpo.py --workdir runs/losses/dpo --seeds 2
    make loss-table      the twelve of losses_*.py, two seeds each, and a table of held-out accuracy and margin; hours

Each losses_*.py is a fork of this one with another loss, its settings the paper's or TRL's. Data, split, optimizer,
steps and the order of pairs are the same, and the last step is the policy; a seed has an order and adapters of its own.
Rates are tuned for none of them. Margins are of log π/π_anchor, or of log π where a loss reads no anchor, and compare
losses of one kind; accuracies compare all. Pairs count with the probability of their label (`dpo_tldr.py`), but where
a loss takes the likelier answer for the better one (AOT, by its definition).

Most posts have 21 pairs of twelve summaries. They share a row, in which the post and each summary are computed once,
and a step is one post: its 21 pairs have the tokens of two or three (`jaxalign bench rows`). So a loss that compares
the pairs of a step with one another sees those of one post.
"""

import dataclasses

from dpo_tldr import TLDR
from dpo_tldr import experiment as full

from jaxalign.data.comparisons.by_prompt import ByPrompt
from jaxalign.feedback.recorded import Recorded
from jaxalign.models.lora import LoRA
from jaxalign.training.one_prompt import OnePrompt
from jaxalign.training.optim import AdamW, WarmupLinear
from jaxalign.training.step import Fit

PAIRS = 21
"""Of a post, mostly."""

experiment = dataclasses.replace(
    full,
    model=LoRA(full.model, rank=16, alpha=32.0),
    feedback=Recorded(
        pairs=ByPrompt(TLDR, 0.1, 0.19),
        heldout=ByPrompt(TLDR, 0.0, 0.03),
        max_prompt_tokens=320,
        max_tokens=96,
    ),
    optimizer=AdamW(WarmupLinear(peak=5e-4, warmup=0.1)),
    fit=Fit(batch_size=PAIRS, rows=OnePrompt(PAIRS, shapes=4), checkpoint_every=20),
)
