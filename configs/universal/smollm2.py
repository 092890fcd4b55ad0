"""Universal alignment of SmolLM2-135M-Instruct: four answers that serve three users who want different things.

Our proposal, after Cai & Zheng 2026 (arXiv 2601.08777), who have the game and no language model (`oracles.k_samples`).
Forty per cent of the users want answers short, 35 % detail, 25 % their words taken up. A single answer cannot please
them all; of four that are shown, each user picks one. The control is the same run with k = 1: COMAL on what the users
say of two answers. Everything else is the quickstart's.

    jaxalign train configs/universal/smollm2.py --workdir runs/universal_4
    jaxalign train configs/universal/smollm2.py --workdir runs/universal_1 --feedback.oracle.k 1
    jaxalign eval runs/universal_4 --k 1,2,4,8,16 --against 1,2 --others runs/universal_1 --json
    jaxalign eval runs/universal_1 --k 1,2,4,8,16 --against 1,2 --others runs/universal_4 --json
    jaxalign sample runs/universal_4 --policy mixture --samples 4

Both are measured against one pool: the base and the last policies of the two, and what each user likes best of theirs.
What is compared is `k_samples/<k>/worst` of iterate 4.

It has not been run to its end yet.
"""

from jaxalign.data.instructed import Instructed
from jaxalign.data.prompts import BuiltinPrompts
from jaxalign.evals.drift import Drift
from jaxalign.evals.k_samples import KSampleWinRate
from jaxalign.evals.text import Text
from jaxalign.evals.win_rate import WinRate
from jaxalign.experiment import Evaluation, Experiment
from jaxalign.feedback.sampled import Sampled
from jaxalign.losses.inpo import INPO
from jaxalign.machine import Placement
from jaxalign.models.pretrained import SmolLM2
from jaxalign.oracles.annotators import Brevity, Coverage, Detail
from jaxalign.oracles.k_samples import KSamples
from jaxalign.oracles.panel import Panel, Weighted
from jaxalign.pairs import AllPairs, SoftLabel
from jaxalign.rollouts.sample import Sample
from jaxalign.training.one_prompt import OnePrompt
from jaxalign.training.optim import AdamW, WarmupLinear
from jaxalign.training.step import Fit

SHORT = "Answer in one short sentence."

USERS = Panel(
    (
        Weighted(Brevity(), weight=0.4, temperature=0.1),
        Weighted(Detail(), weight=0.35, temperature=0.2),
        Weighted(Coverage(beside=SHORT), weight=0.25, temperature=0.02),
    )
)

SAMPLES = 8
PAIRS = SAMPLES * (SAMPLES - 1) // 2
"""Of the answers to a prompt. They share a row, in which each answer is computed once."""

experiment = Experiment(
    model=SmolLM2(),
    feedback=Sampled(
        prompts=Instructed(BuiltinPrompts("train"), behind=SHORT),
        rollout=Sample(samples=SAMPLES, max_tokens=48),
        oracle=KSamples(USERS, k=4),
        pairing=AllPairs(SoftLabel()),
        prompts_per_iteration=64,
        unseen=1 / 4,
    ),
    # Pairs of k samples halve the step that a loss takes: half the quickstart's eta and tau are its step and anchor.
    loss=INPO(eta=0.035, tau=0.01),
    optimizer=AdamW(WarmupLinear(peak=1.1e-5, warmup=0.25, floor=0.5)),
    fit=Fit(
        batch_size=4 * PAIRS, rows=OnePrompt(PAIRS), moments="kept", schedule="run", max_kl=1.0, checkpoint_every=20
    ),
    iterations=4,
    swap_every=2,
    evaluation=Evaluation(
        prompts=Instructed(BuiltinPrompts("heldout", limit=64), behind=SHORT),
        rollout=Sample(samples=8, max_tokens=48),
        evals=(WinRate(), KSampleWinRate(ks=(1, 2, 4, 8), opponents=(1, 2)), Drift(), Text()),
        oracle=USERS,
        every=2,
    ),
    placement=Placement(rollout_rows=128, remat="dots"),
)
