"""COMAL on the three-action game through the loop that trains language models; the parent of the games beside it.

Liu et al. 2024 (arXiv 2410.23223), the synthetic experiment: c beats b beats a beats c, Nash policy (4, 3, 4) / 11. The
policy is a table, its answers are enumerated, each fit is an exact least squares. Settings are ours (the paper's are
not known): step size 1.5, tau 0.1, 30 steps a round; the certificate for them is a contraction by 0.47 a round.

    jaxalign train configs/games/three_action.py --workdir runs/three_action     under two minutes on 2 cores
    jaxalign report runs/three_action

Expected: `nash/gap` at fp32 rounding (below 1e-5) at the end. `--swap_every none` is INPO and stalls at 0.0588.
"""

from jaxalign.data import InlinePrompts
from jaxalign.evals.nash_gap import NashGap
from jaxalign.experiment import Evaluation, Experiment
from jaxalign.losses.inpo import INPO
from jaxalign.models.tabular import TabularPolicy
from jaxalign.optim import GradientDescent
from jaxalign.oracles.tabular import THREE_ACTION, TabularGame
from jaxalign.pairs import AllPairs, SoftLabel
from jaxalign.rollout import Enumerate
from jaxalign.sharding import MeshShape
from jaxalign.train import Fit

PROMPT = InlinePrompts(("Choose an answer.",))

experiment = Experiment(
    model=TabularPolicy(init=(0.2, 0.5, 0.3)),
    prompts=PROMPT,
    rollout=Enumerate(),
    oracle=TabularGame(THREE_ACTION),
    pairing=AllPairs(label=SoftLabel()),
    loss=INPO(eta=1 / 1.5, tau=0.1),
    optimizer=GradientDescent(learning_rate=0.5),
    fit=Fit(batch_size=3, epochs=25),
    iterations=240,
    prompts_per_iteration=1,
    swap_every=30,
    evaluation=Evaluation(prompts=PROMPT, rollout=Enumerate(), evals=(NashGap(nash=(4 / 11, 3 / 11, 4 / 11)),)),
    mesh=MeshShape(fsdp=1, data=1),
    keep_policies=1,
)
