"""COMAL against a preference model that learned from one half of the data, judged by one of the other half.

    make comal-tldr                                          policy and both models, then the line below
    jaxalign train configs/preference/comal_tldr.py --workdir runs/comal_tldr

Summaries of Reddit posts by SmolLM2-135M with LoRA, on a laptop. The policy is that of `sft_tldr.py`, which has seen
what a summary is. Both judges are general preference models of `gpm_tldr.py`. The judge that trains learned from the
first half of the posts, and the policy is asked about posts of the second, so it is judged where its judge has seen
nothing. The judge that evaluates learned from the second half, and the held-out posts are of the first: new to this
judge and to the policy. `judges/apart` is what the policy gained with its own judge alone.

All pairs of the answers to a post are trained on with the judge's probabilities as labels: in expectation the law that
INPO's theorem asks for. They share a row, so that a post and each of its answers are computed once. The anchor is
swapped after two iterations. A fifth of an iteration's posts are left out of its fit: `fit/heldout_loss` says whether
the fit lowers its objective on pairs that it has not seen. One run, in 56 minutes beside other work, came to a win rate
of .605 [.554, .658] against the first policy by the judge that evaluates, .621 [.568, .672] at equal length, at a KL of
2.3 nats (`BENCHMARKS.md`, with what did not work).
"""

from dpo_tldr import TLDR

from jaxalign.data.comparisons.by_prompt import ByPrompt
from jaxalign.data.comparisons.prompts import PromptsOf
from jaxalign.evals.drift import Drift
from jaxalign.evals.judges_apart import JudgesApart
from jaxalign.evals.text import Text
from jaxalign.evals.win_rate import WinRate
from jaxalign.experiment import Evaluation, Experiment
from jaxalign.feedback.sampled import Sampled
from jaxalign.losses.inpo import INPO
from jaxalign.machine import Placement
from jaxalign.models.lora import LoRA
from jaxalign.models.pretrained import Pretrained
from jaxalign.oracles.learned import PreferenceModel
from jaxalign.pairs import AllPairs, SoftLabel
from jaxalign.rollouts.sample import Sample
from jaxalign.training.one_prompt import OnePrompt
from jaxalign.training.optim import AdamW, WarmupLinear
from jaxalign.training.step import Fit

PARTS = "runs/comal_tldr_parts"

experiment = Experiment(
    model=LoRA(Pretrained(f"{PARTS}/policy"), rank=16, alpha=32.0),
    feedback=Sampled(
        prompts=PromptsOf(ByPrompt(TLDR, 0.5, 1.0)),
        rollout=Sample(samples=6, max_tokens=96),
        oracle=PreferenceModel(f"{PARTS}/first"),
        pairing=AllPairs(SoftLabel()),
        prompts_per_iteration=48,
        unseen=0.2,
    ),
    loss=INPO(eta=0.1, tau=0.02),
    optimizer=AdamW(WarmupLinear(peak=1e-4, warmup=0.1)),
    fit=Fit(batch_size=30, rows=OnePrompt(15), checkpoint_every=8),
    iterations=3,
    swap_every=2,
    evaluation=Evaluation(
        prompts=PromptsOf(ByPrompt(TLDR, 0.0, 0.5), limit=64),
        rollout=Sample(samples=2, max_tokens=96),
        evals=(WinRate(), JudgesApart(), Drift(), Text()),
        oracle=PreferenceModel(f"{PARTS}/second"),
    ),
    placement=Placement(rollout_rows=144, score_batch_size=8),
)
