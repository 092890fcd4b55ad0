"""Universal alignment of a transformer whose users are known: k samples that serve a population, and its Nash policy.

Cai & Zheng 2026 (arXiv 2601.08777) have the game of k + 1 players; COMAL's outer loop on it, and its estimate from
samples (`oracles.k_samples`), are a proposal of ours. Four users of three-letter strings (`oracles.string_users`), one
of whom does not care for styles; the Nash policy of two players says one style alone, which 46 % like best.

A random transformer of two layers is sampled, û_k is estimated of 128 samples a prompt, and INPO's loss regresses on
pairs of them; the anchor is swapped every four iterations. At every iterate all 27 answers are listed, so
`k_samples/<k>/robust` is exact: how often a user picks one of k samples when any single answer comes along.

    jaxalign train configs/universal/strings.py --workdir runs/strings_2
    jaxalign train configs/universal/strings.py --workdir runs/strings_1 --feedback.oracle.k 1     # the Nash policy
    jaxalign eval runs/strings_2 --k 1,2,4,8,16 --against 1,2 --out FIGURES
    jaxalign report runs/strings_2

Expected: `k_samples/2/robust` from 0.04 to 0.665 after 24 iterations (the optimum is 2/3, the Nash policy's 0.56).
"""

from jaxalign.data.prompts import InlinePrompts
from jaxalign.evals.k_samples import KSampleWinRate
from jaxalign.experiment import Evaluation, Experiment
from jaxalign.feedback.sampled import Sampled
from jaxalign.losses.inpo import INPO
from jaxalign.machine import Placement
from jaxalign.mesh.sharding import MeshShape
from jaxalign.models.letters import LetterLlama
from jaxalign.models.random_llama import RandomLlama
from jaxalign.oracles.k_samples import KSamples
from jaxalign.oracles.string_users import StringUsers
from jaxalign.pairs import RandomPair, SoftLabel
from jaxalign.rollouts.enumerate import Enumerate
from jaxalign.rollouts.sample import Sample
from jaxalign.training.one_prompt import OnePrompt
from jaxalign.training.optim import AdamW, WarmupLinear
from jaxalign.training.step import Fit

STEP, TAU = 6.0, 0.05
"""Of exact mirror descent on u_k; pairs of û_k halve the step that a loss takes, and double what tau weighs in it."""

PAIRS = 1024
"""Drawn of the answers to a prompt. All of them are one row, in which each different answer is computed once."""

PROMPTS = InlinePrompts(("ab", "ba", "bc", "cb"))

USERS = StringUsers()

experiment = Experiment(
    model=LetterLlama(llama=RandomLlama(width=32, mlp=64, tied=False, context=16)),
    feedback=Sampled(
        prompts=PROMPTS,
        rollout=Sample(samples=128, max_tokens=3),
        oracle=KSamples(USERS, k=2),
        pairing=RandomPair(pairs_per_prompt=PAIRS, label=SoftLabel()),
        prompts_per_iteration=16,
        unseen=1 / 4,
    ),
    loss=INPO(eta=1 / (2 * STEP), tau=TAU / 2),
    optimizer=AdamW(WarmupLinear(peak=5e-3)),
    fit=Fit(batch_size=12 * PAIRS, rows=OnePrompt(PAIRS), epochs=40, checkpoint_every=1000),
    iterations=24,
    swap_every=4,
    evaluation=Evaluation(
        prompts=PROMPTS,
        rollout=Enumerate(length=3),
        evals=(KSampleWinRate(opponents=(1, 2)),),
        oracle=USERS,
    ),
    placement=Placement(mesh=MeshShape(fsdp=1, data=1), rollout_rows=4096),
)
