"""COMAL against a preference model that learned from one half of the data, judged by one of the other half.

    make comal-tldr                                          both models, then the line below
    jaxalign train configs/preference/comal_tldr.py --workdir runs/comal_tldr

Summaries of Reddit posts by SmolLM2-135M-Instruct with LoRA, on a laptop. Both judges are general preference models of
`gpm_tldr.py`, exported to where the two paths below say. The judge that trains learned from the first half of the
posts, and the policy is asked about posts of the second, so it is judged where its judge has seen nothing. The judge
that evaluates learned from the second half, and the held-out posts are of the first: new to this judge and to the
policy. `judges/apart` is what the policy gained with its own judge alone.

Pairs are drawn i.i.d. with the judge's probabilities as labels, the law that INPO's theorem asks for; the anchor is
swapped after two iterations. A fifth of an iteration's posts are left out of its fit: `fit/heldout_loss` says whether
the fit lowers its objective on pairs that it has not seen. With these settings it does not, and the policy gains with
the judge that trains alone (`BENCHMARKS.md`).
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
from jaxalign.models.pretrained import SmolLM2
from jaxalign.oracles.learned import PreferenceModel
from jaxalign.pairs import RandomPair, SoftLabel
from jaxalign.rollouts.sample import Sample
from jaxalign.training.optim import AdamW, WarmupLinear
from jaxalign.training.step import Fit

JUDGES = "runs/comal_tldr_judges"

experiment = Experiment(
    model=LoRA(SmolLM2(), rank=16, alpha=32.0),
    feedback=Sampled(
        prompts=PromptsOf(ByPrompt(TLDR, 0.5, 1.0)),
        rollout=Sample(samples=8, max_tokens=64),
        oracle=PreferenceModel(f"{JUDGES}/first"),
        pairing=RandomPair(pairs_per_prompt=4, label=SoftLabel()),
        prompts_per_iteration=20,
        unseen=0.2,
    ),
    loss=INPO(eta=0.1, tau=0.02),
    optimizer=AdamW(WarmupLinear(peak=1e-4, warmup=0.1)),
    fit=Fit(batch_size=4, checkpoint_every=8),
    iterations=3,
    swap_every=2,
    evaluation=Evaluation(
        prompts=PromptsOf(ByPrompt(TLDR, 0.0, 0.5), limit=32),
        rollout=Sample(samples=2, max_tokens=64),
        evals=(WinRate(), JudgesApart(), Drift(), Text()),
        oracle=PreferenceModel(f"{JUDGES}/second"),
    ),
    placement=Placement(rollout_rows=128, score_batch_size=8),
)
