"""COMAL on a game whose truth is known, with a transformer as the policy; the parent of the learners beside it.

Four prompts of two letters; an answer is any of 27 strings of three letters. The first letter is a style, and styles
beat one another in a cycle that each prompt has of its own; the other two are to be spelled right
(`oracles.cyclic_strings`). A random transformer of two layers is sampled, pairs are drawn i.i.d. from its samples, and
eight votes on each; AdamW fits. At every iterate all 27 answers are listed to each prompt, so `nash/gap` and `nash/kl`
are exact; the last ones are `duality_gap` and `kl_to_nash` in summary.json.

Step 6 (INPO's eta is its inverse), tau and swaps come from exact mirror descent on the same games
(`games.sampled_games`). Every prompt is asked four times an iteration; the pairs of the fourth time are left out of the
fit, to tell whether it lowers its objective (`fit/heldout_loss`).

    jaxalign train configs/games/cyclic_strings.py --workdir runs/cyclic_strings
    make cyclic-strings                                        this and five of its forks, five seeds each
    make nash-family                                           the other forks, five seeds each

Expected: `nash/gap` from 0.574 to 0.03 after 24 iterations, then 0.02 to 0.09: the noise of so many pairs. 90 s of CPU.
"""

from jaxalign.data.prompts import InlinePrompts
from jaxalign.evals.exact_nash import ExactNash
from jaxalign.experiment import Evaluation, Experiment
from jaxalign.feedback.sampled import Sampled
from jaxalign.losses.inpo import INPO
from jaxalign.machine import Placement
from jaxalign.mesh.sharding import MeshShape
from jaxalign.models.letters import LetterLlama
from jaxalign.models.random_llama import RandomLlama
from jaxalign.oracles.cyclic_strings import CyclicStrings
from jaxalign.pairs import BernoulliLabel, RandomPair
from jaxalign.rollouts.enumerate import Enumerate
from jaxalign.rollouts.sample import Sample
from jaxalign.training.one_prompt import OnePrompt
from jaxalign.training.optim import AdamW, WarmupLinear
from jaxalign.training.step import Fit

STEP, TAU = 6.0, 0.1

PAIRS = 1024
"""Drawn of the answers to a prompt. All of them are one row, in which each different answer is computed once."""

PROMPTS = InlinePrompts(("ab", "ba", "bc", "cb"))

FEEDBACK = Sampled(
    prompts=PROMPTS,
    rollout=Sample(samples=128, max_tokens=3),
    oracle=CyclicStrings(length=3, penalty=0.1, seed=2),
    pairing=RandomPair(pairs_per_prompt=PAIRS, label=BernoulliLabel(votes=8)),
    prompts_per_iteration=16,
    unseen=1 / 4,
)

experiment = Experiment(
    # Not tied: embeddings are small, and scores that share them take many steps to leave the uniform policy.
    model=LetterLlama(llama=RandomLlama(width=32, mlp=64, tied=False, context=16)),
    feedback=FEEDBACK,
    loss=INPO(eta=1 / STEP, tau=TAU),
    optimizer=AdamW(WarmupLinear(peak=5e-3)),
    # Every step takes all pairs.
    fit=Fit(batch_size=12 * PAIRS, rows=OnePrompt(PAIRS), epochs=40, checkpoint_every=1000),
    iterations=36,
    swap_every=4,
    evaluation=Evaluation(prompts=PROMPTS, rollout=Enumerate(length=3), evals=(ExactNash(),)),
    placement=Placement(mesh=MeshShape(fsdp=1, data=1), rollout_rows=4096),
    keep_policies=1,
)
