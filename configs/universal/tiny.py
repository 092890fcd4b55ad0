"""Universal alignment of a small random language model, under a minute: what tests use, and a template.

Our proposal, after Cai & Zheng 2026 (arXiv 2601.08777), who have the game and no language model: each user of a panel
picks from k + 1 answers what it likes best, and COMAL's loop plays for what is picked (`oracles.k_samples`). One user
wants answers short, one wants detail, one wants its words taken up.

    jaxalign train configs/universal/tiny.py --workdir runs/universal_tiny
    jaxalign eval runs/universal_tiny --k 1,2,4,8 --against 1,2 --json
"""

from jaxalign.data.prompts import BuiltinPrompts
from jaxalign.evals.drift import Drift
from jaxalign.evals.k_samples import KSampleWinRate
from jaxalign.evals.win_rate import WinRate
from jaxalign.experiment import Evaluation, Experiment
from jaxalign.feedback.sampled import Sampled
from jaxalign.losses.inpo import INPO
from jaxalign.machine import Placement
from jaxalign.models.random_llama import RandomLlama
from jaxalign.oracles.annotators import Brevity, Coverage, Detail
from jaxalign.oracles.k_samples import KSamples
from jaxalign.oracles.panel import Panel, Weighted
from jaxalign.pairs import AllPairs, SoftLabel
from jaxalign.rollouts.sample import Sample
from jaxalign.training.one_prompt import OnePrompt
from jaxalign.training.optim import AdamW, WarmupLinear
from jaxalign.training.step import Fit

USERS = Panel(
    (
        Weighted(Brevity(), weight=0.4, temperature=0.1),
        Weighted(Detail(), weight=0.35, temperature=0.2),
        Weighted(Coverage(), weight=0.25, temperature=0.05),
    )
)

experiment = Experiment(
    model=RandomLlama(),
    feedback=Sampled(
        prompts=BuiltinPrompts("train"),
        rollout=Sample(samples=5, max_tokens=24),
        oracle=KSamples(USERS, k=2),
        pairing=AllPairs(SoftLabel()),
        prompts_per_iteration=16,
    ),
    loss=INPO(eta=0.1, tau=0.025),
    optimizer=AdamW(WarmupLinear(peak=1e-3)),
    fit=Fit(batch_size=20, rows=OnePrompt(10), checkpoint_every=2),
    iterations=4,
    swap_every=2,
    evaluation=Evaluation(
        prompts=BuiltinPrompts("heldout", limit=16),
        rollout=Sample(samples=4, max_tokens=24),
        evals=(WinRate(), KSampleWinRate(ks=(1, 2, 4)), Drift()),
        # Users say what they like of two answers; what they pick of more is for the evaluation to ask.
        oracle=USERS,
    ),
    placement=Placement(rollout_rows=32),
)
