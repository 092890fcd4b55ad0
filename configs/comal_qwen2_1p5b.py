"""COMAL's released recipe for Qwen2-1.5B (arXiv 2410.23223, first version, and its code).

Kept from it: 24 iterations over six splits of the prompts, 5 samples at temperature 0.8 and top-p 0.95, the best
against the second best of them, INPO with eta 0.002 and tau/eta 1/3 (a target margin of 250 nats), 32 pairs a step,
up to 3 epochs, AdamW at 5e-7 with 10 % warm-up and linear decay restarted every iteration, weight decay 0.01,
prompts and responses of at most 2,048 tokens, the anchor swapped every 12 iterations. Theirs took 8 GPUs of 48 GB.

It is not the algorithm of COMAL's theorem, which wants pairs drawn i.i.d. from the policy and labelled by the oracle
alone: best against second best, for certain, solves another game, that of who beats whom, or with answers that come
again and again none (BENCHMARKS.md has its fixed points), and nothing is certified of it. Nor would exact steps of
1/eta = 500 contract on games that rotate faster than omega .0016: what a fit does here its learning rate decides.
`comal_llama3_8b.py` takes i.i.d. pairs and smaller steps.

Different here: the oracle. Theirs is a generative judge of 8B parameters; this file uses the built-in panel of
annotators, so its win rates are not comparable with the paper's. The released code picks the epoch of lowest
validation loss and does not clip gradients; here the last step counts and gradients are clipped at 1.

Put the model (`yale-nlp/comal-qwen2-1.5b-mle`, or Qwen2-1.5B-Instruct) and the prompts (one {"prompt": …} a line)
where the two paths below say, or give others:

    jaxalign train configs/comal_qwen2_1p5b.py --workdir runs/comal_qwen2 --model.path DIR --feedback.prompts.path FILE
"""

from jaxalign.data.prompts import BuiltinPrompts, JsonlPrompts
from jaxalign.evals.drift import Drift
from jaxalign.evals.text import Text
from jaxalign.evals.win_rate import WinRate
from jaxalign.experiment import Evaluation, Experiment
from jaxalign.feedback.sampled import Sampled
from jaxalign.losses.inpo import INPO
from jaxalign.machine import Placement
from jaxalign.models.pretrained import Pretrained
from jaxalign.oracles.annotators import Brevity, Completeness, Coverage
from jaxalign.oracles.panel import Panel, Weighted
from jaxalign.pairs import BestSecond
from jaxalign.rollouts.sample import Sample
from jaxalign.rollouts.samplers import TopP
from jaxalign.training.optim import AdamW, WarmupLinear
from jaxalign.training.step import Fit

FEEDBACK = Sampled(
    prompts=JsonlPrompts("data/ultrafeedback_prompts.jsonl"),
    rollout=Sample(samples=5, max_tokens=2048, sampler=TopP(p=0.95, temperature=0.8)),
    oracle=Panel(
        (
            Weighted(Brevity(enough=120)),
            Weighted(Coverage(), temperature=0.1),
            Weighted(Completeness(), temperature=0.2),
        )
    ),
    pairing=BestSecond(),
    prompts_per_iteration=10_000,
)

experiment = Experiment(
    model=Pretrained("models/qwen2-1.5b", compute_dtype="bfloat16"),
    feedback=FEEDBACK,
    loss=INPO(eta=0.002, tau=0.002 / 3),
    optimizer=AdamW(WarmupLinear(peak=5e-7, warmup=0.1), weight_decay=0.01),
    fit=Fit(batch_size=32, epochs=3, checkpoint_every=200),
    iterations=24,
    swap_every=12,
    evaluation=Evaluation(
        prompts=BuiltinPrompts("heldout"),
        rollout=Sample(samples=1, max_tokens=2048, sampler=TopP(p=0.95, temperature=0.7)),
        evals=(WinRate(), Drift(), Text()),
    ),
    placement=Placement(remat="full", accumulate=4, score_batch_size=32, rollout_rows=320),
    keep_policies=3,
    seed=18890426,
)
