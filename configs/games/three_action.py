"""COMAL on the three-action game through the loop that trains language models; the parent of the games beside it.

Liu et al. 2024 (arXiv 2410.23223), the synthetic experiment: c beats b beats a beats c, Nash policy (4, 3, 4) / 11. The
policy is a table of three logits, its answers are enumerated, each fit is a least squares in 25 epochs of gradient
descent: the loop that trains language models takes mirror-descent steps, exact in fp32 where no answer is rare.
Settings are ours (the paper's are not known): step size 1.5 (INPO's eta is its inverse), tau 0.1. The game's
eigenvalues then let twelve inner steps and a swap shrink the distance to the Nash policy by 0.225; one inner step a
swap would be iterative IPO and diverge (three_action_iter_ipo.py), no swap is INPO and stalls at a gap of 0.0588
(three_action_inpo.py).

    jaxalign train configs/games/three_action.py --workdir runs/three_action     a minute on 2 cores
    jaxalign report runs/three_action

Expected: `nash/gap` 5.8e-5 after 72 iterations and fp32 rounding (below 1e-6) after 120.
"""

from jaxalign.data.prompts import InlinePrompts
from jaxalign.evals.nash_gap import NashGap
from jaxalign.experiment import Evaluation, Experiment
from jaxalign.feedback.sampled import Sampled
from jaxalign.losses.inpo import INPO
from jaxalign.machine import Placement
from jaxalign.mesh.sharding import MeshShape
from jaxalign.models.tabular import TabularPolicy
from jaxalign.oracles.tabular import THREE_ACTION, TabularGame
from jaxalign.pairs import AllPairs, SoftLabel
from jaxalign.rollouts.enumerate import Enumerate
from jaxalign.training.optim import GradientDescent
from jaxalign.training.step import Fit

STEP, TAU = 1.5, 0.1

PROMPT = InlinePrompts(("Choose an answer.",))

FEEDBACK = Sampled(
    prompts=PROMPT,
    rollout=Enumerate(),
    oracle=TabularGame(THREE_ACTION),
    pairing=AllPairs(label=SoftLabel()),
    prompts_per_iteration=1,
)

experiment = Experiment(
    model=TabularPolicy(init=(0.2, 0.5, 0.3)),
    feedback=FEEDBACK,
    loss=INPO(eta=1 / STEP, tau=TAU),
    optimizer=GradientDescent(learning_rate=0.5),
    fit=Fit(batch_size=3, epochs=25),
    iterations=120,
    swap_every=12,
    evaluation=Evaluation(prompts=PROMPT, rollout=Enumerate(), evals=(NashGap(nash=(4 / 11, 3 / 11, 4 / 11)),)),
    placement=Placement(mesh=MeshShape(fsdp=1, data=1)),
    keep_policies=1,
)
