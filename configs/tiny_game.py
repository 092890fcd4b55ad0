"""COMAL on the three-action game: the last iterate reaches the Nash policy that no other loop reaches.

Liu et al. 2024 (arXiv 2410.23223), the synthetic experiment. Preferences cycle (c beats b beats a beats c), the
Nash policy is (4/11, 3/11, 4/11). A table of three logits is the policy, all answers are enumerated, and each
iteration's fit is an exact least squares: the same loop that trains a language model takes exact mirror-descent
steps. With a fixed anchor (`--swap_every none`) the run is INPO and stalls at the regularised game's solution, gap
0.0588; with IPO and a swap every iteration (tiny_game_iter_ipo.py) it spirals outwards.

    jaxalign train configs/tiny_game.py --workdir runs/tiny_game
"""

from jaxalign.data import InlinePrompts
from jaxalign.evals.nash_gap import NashGap
from jaxalign.experiment import Evaluation, Experiment
from jaxalign.losses.inpo import INPO
from jaxalign.models.tabular import TabularPolicy
from jaxalign.optim import GradientDescent
from jaxalign.oracles.tabular import TabularGame
from jaxalign.pairs import AllPairs, SoftLabel
from jaxalign.rollout import Enumerate
from jaxalign.sharding import MeshShape
from jaxalign.train import Fit

GAME = TabularGame(((0.5, 0.1, 0.8), (0.9, 0.5, 0.1), (0.2, 0.9, 0.5)))
PROMPT = InlinePrompts(("Choose a, b or c.",))

# In COMAL's notation the step size is 1.5 (INPO's eta is its inverse) and tau 0.1. The eigenvalues of this game then
# let twelve inner steps and a swap shrink the distance to the Nash policy by 0.225; one inner step a swap would be
# iterative IPO and diverge.
experiment = Experiment(
    model=TabularPolicy(init=(0.2, 0.5, 0.3)),
    prompts=PROMPT,
    rollout=Enumerate(),
    oracle=GAME,
    pairing=AllPairs(label=SoftLabel()),
    loss=INPO(eta=1 / 1.5, tau=0.1),
    optimizer=GradientDescent(learning_rate=0.5),
    fit=Fit(batch_size=3, epochs=25),
    iterations=72,
    prompts_per_iteration=1,
    swap_every=12,
    evaluation=Evaluation(prompts=PROMPT, rollout=Enumerate(), evals=(NashGap(nash=(4 / 11, 3 / 11, 4 / 11)),)),
    mesh=MeshShape(fsdp=1, data=1),
    keep_policies=1,
)
