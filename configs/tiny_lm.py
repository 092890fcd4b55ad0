"""The whole pipeline on a small random model, under a minute: what tests use, and a template for new configs.

jaxalign train configs/tiny_lm.py --workdir runs/tiny_lm
"""

from jaxalign.data.prompts import BuiltinPrompts
from jaxalign.evals.cycles import Cycles
from jaxalign.evals.drift import Drift
from jaxalign.evals.text import Text
from jaxalign.evals.win_rate import WinRate
from jaxalign.experiment import Evaluation, Experiment
from jaxalign.feedback.sampled import Sampled
from jaxalign.losses.inpo import INPO
from jaxalign.machine import Placement
from jaxalign.models.random_llama import RandomLlama
from jaxalign.oracles.annotators import Brevity, Coverage, NonRepetition
from jaxalign.oracles.panel import Panel, Weighted
from jaxalign.pairs import RandomPair, SoftLabel
from jaxalign.rollouts.sample import Sample
from jaxalign.training.optim import AdamW, WarmupLinear
from jaxalign.training.step import Fit

experiment = Experiment(
    model=RandomLlama(),
    feedback=Sampled(
        prompts=BuiltinPrompts("train"),
        rollout=Sample(samples=4, max_tokens=24),
        oracle=Panel((Weighted(Brevity()), Weighted(Coverage()), Weighted(NonRepetition()))),
        pairing=RandomPair(pairs_per_prompt=2, label=SoftLabel()),
        prompts_per_iteration=16,
    ),
    loss=INPO(eta=0.2, tau=0.05),
    optimizer=AdamW(WarmupLinear(peak=1e-3)),
    fit=Fit(batch_size=8, checkpoint_every=2),
    iterations=4,
    swap_every=2,
    evaluation=Evaluation(
        prompts=BuiltinPrompts("heldout", limit=16),
        rollout=Sample(samples=1, max_tokens=24),
        evals=(WinRate(), Drift(), Text(), Cycles()),
    ),
    placement=Placement(rollout_rows=32),
)
