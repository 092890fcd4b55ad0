"""COMAL on SmolLM2-135M-Instruct with a panel of three annotators who disagree: minutes on a laptop, no accelerator.

make quickstart            (installs everything, then runs the line below)
jaxalign train configs/quickstart.py --workdir runs/quickstart

Pairs follow the law that the theorem asks for: all pairs of six samples of the policy, labelled with the panel's own
probabilities. Answers are asked to be short, so that most of them end. A quarter of an iteration's prompts is left out
of its fit, to tell whether it lowers its objective on pairs that it has not seen (`fit/heldout_loss`). Fits hand on
their optimizer's moments; the learning rate rises over the first one, whose moments know nothing yet.
"""

from jaxalign.data.instructed import Instructed
from jaxalign.data.prompts import BuiltinPrompts
from jaxalign.evals.drift import Drift
from jaxalign.evals.robust_win_rate import RobustWinRate
from jaxalign.evals.text import Text
from jaxalign.evals.win_rate import WinRate
from jaxalign.experiment import Evaluation, Experiment
from jaxalign.feedback.sampled import Sampled
from jaxalign.losses.inpo import INPO
from jaxalign.machine import Placement
from jaxalign.models.pretrained import SmolLM2
from jaxalign.oracles.annotators import Brevity, Completeness, Coverage
from jaxalign.oracles.panel import Panel, Weighted
from jaxalign.pairs import AllPairs, SoftLabel
from jaxalign.rollouts.sample import Sample
from jaxalign.rollouts.samplers import Temperature
from jaxalign.training.one_prompt import OnePrompt
from jaxalign.training.optim import AdamW, WarmupLinear
from jaxalign.training.step import Fit

SHORT = "Answer in one short sentence."

PANEL = Panel(
    (
        Weighted(Brevity(), weight=1.0, temperature=0.1),
        Weighted(Coverage(beside=SHORT), weight=1.0, temperature=0.02),
        Weighted(Completeness(), weight=1.0, temperature=0.05),
    )
)

SAMPLES = 6
PAIRS = SAMPLES * (SAMPLES - 1) // 2
"""Of the answers to a prompt. They share a row, in which each answer is computed once."""

LOSS = INPO(eta=0.07, tau=0.02)

experiment = Experiment(
    model=SmolLM2(),
    feedback=Sampled(
        prompts=Instructed(BuiltinPrompts("train"), behind=SHORT),
        rollout=Sample(samples=SAMPLES, max_tokens=48),
        oracle=PANEL,
        pairing=AllPairs(SoftLabel()),
        prompts_per_iteration=64,
        unseen=1 / 4,
    ),
    loss=LOSS,
    optimizer=AdamW(WarmupLinear(peak=1.1e-5, warmup=0.25, floor=0.5)),
    fit=Fit(
        batch_size=4 * PAIRS, rows=OnePrompt(PAIRS), moments="kept", schedule="run", max_kl=1.0, checkpoint_every=20
    ),
    iterations=4,
    swap_every=2,
    evaluation=Evaluation(
        prompts=Instructed(BuiltinPrompts("heldout", limit=64), behind=SHORT),
        rollout=Sample(samples=6, max_tokens=48),
        evals=(WinRate(), RobustWinRate(), Drift(), Text()),
        every=2,
        # Sampled at 1, as it is trained and judged, a model of this size wanders.
        shown=Sample(samples=1, max_tokens=64, sampler=Temperature(0.3)),
    ),
    placement=Placement(rollout_rows=128, remat="dots"),
)
