"""COMAL on SmolLM2-135M-Instruct with a panel of three annotators who disagree: minutes on a laptop, no accelerator.

make quickstart            (installs everything, then runs the line below)
jaxalign train configs/quickstart.py --workdir runs/quickstart
"""

from jaxalign.data.prompts import BuiltinPrompts
from jaxalign.evals.drift import Drift
from jaxalign.evals.text import Text
from jaxalign.evals.win_rate import WinRate
from jaxalign.experiment import Evaluation, Experiment
from jaxalign.feedback.sampled import Sampled
from jaxalign.losses.inpo import INPO
from jaxalign.machine import Placement
from jaxalign.models.pretrained import SmolLM2
from jaxalign.oracles.annotators import Brevity, Completeness, Coverage
from jaxalign.oracles.panel import Panel, Weighted
from jaxalign.pairs import BestWorst
from jaxalign.rollouts.sample import Sample
from jaxalign.training.optim import AdamW, WarmupLinear
from jaxalign.training.step import Fit

PANEL = Panel(
    (
        Weighted(Brevity(), weight=1.0, temperature=0.1),
        Weighted(Coverage(), weight=1.0, temperature=0.02),
        Weighted(Completeness(), weight=1.0, temperature=0.05),
    )
)

LOSS = INPO(eta=0.1, tau=0.02)

experiment = Experiment(
    model=SmolLM2(),
    feedback=Sampled(
        prompts=BuiltinPrompts("train"),
        rollout=Sample(samples=8, max_tokens=48),
        oracle=PANEL,
        pairing=BestWorst(),
        prompts_per_iteration=32,
    ),
    loss=LOSS,
    optimizer=AdamW(WarmupLinear(peak=6e-5, warmup=0.1)),
    fit=Fit(batch_size=4, checkpoint_every=20),
    iterations=4,
    swap_every=2,
    evaluation=Evaluation(
        prompts=BuiltinPrompts("heldout", limit=64),
        rollout=Sample(samples=1, max_tokens=48),
        evals=(WinRate(), Drift(), Text()),
    ),
    placement=Placement(rollout_rows=128),
)
