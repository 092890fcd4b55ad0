"""Supervised fine-tuning on the better summaries of Reddit posts: a policy that preferences can be asked about.

    jaxalign train configs/preference/sft_tldr.py --workdir runs/sft_tldr
    jaxalign export runs/sft_tldr runs/comal_tldr_parts/policy

SmolLM2-135M-Instruct is not told that a summary is wanted, and what it answers to a post is none. One epoch of the
summaries of a tenth of the posts, each by the probability that it is the better one of its pair (`Likelihood`), shows
it what is asked. A row is a post with all of its summaries, which some twenty pairs have in common.
"""

from dpo_tldr import TLDR

from jaxalign.data.comparisons.by_prompt import ByPrompt
from jaxalign.evals.pairs import HeldOutPairs
from jaxalign.experiment import Evaluation, Experiment
from jaxalign.feedback.recorded import Recorded
from jaxalign.losses.likelihood import Likelihood
from jaxalign.machine import Placement
from jaxalign.models.lora import LoRA
from jaxalign.models.pretrained import SmolLM2
from jaxalign.training.one_prompt import OnePrompt
from jaxalign.training.optim import AdamW, WarmupLinear
from jaxalign.training.step import Fit

experiment = Experiment(
    model=LoRA(SmolLM2(), rank=16, alpha=32.0),
    feedback=Recorded(
        pairs=ByPrompt(TLDR, 0.5, 0.6), heldout=ByPrompt(TLDR, 0.98, 1.0), max_prompt_tokens=640, max_tokens=128
    ),
    loss=Likelihood(),
    optimizer=AdamW(WarmupLinear(peak=3e-4, warmup=0.1)),
    fit=Fit(batch_size=48, rows=OnePrompt(24, shapes=4), checkpoint_every=10),
    iterations=1,
    swap_every=None,
    evaluation=Evaluation(evals=(HeldOutPairs(),)),
    placement=Placement(score_batch_size=4),
)
