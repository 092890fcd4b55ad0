"""RACO on summaries of Reddit posts, quality against brevity (Chen et al. 2026, arXiv 2602.02495), SmolLM2-135M + LoRA.

    jaxalign train configs/raco/tldr.py --workdir runs/raco_tldr
    jaxalign train configs/raco/tldr.py --workdir runs/raco_tldr_even --combiner.weights 0.5,0.5
    make raco-front      this one and its four forks, five weights, three seeds each, and their fronts: 63 runs; hours

The posts and pairs are those of preference/losses_dpo.py: most posts have 21 pairs of twelve summaries, which share a
row, and a step is one post. Objective 0, "quality", is what one judge says, P(better), whom the data call
`tldr-concise`: no person's label, and of a judge who by its name is to look at conciseness as well. Objective 1,
brevity, is derived: the summary of fewer words wins, ties say nothing. Labels of the judge are soft where the paper's
are signs. Of the 17,034 pairs of the data on which both say something they disagree on 11,086. Beta and c are the
paper's; its models have 4 to 8 billion parameters and its data are other comparisons of such posts.
`HeldOutObjectives` tells margins and accuracies of each objective on posts that are not trained on. The learning rate
is that of losses_dpo.py, with one objective. One seed of this file and of tldr_cagrad.py has been run: a front between
the two objectives, on which the two methods cannot be told apart (`BENCHMARKS.md`).
"""

from jaxalign.data.comparisons.asked import Joined
from jaxalign.data.comparisons.by_prompt import ByPrompt
from jaxalign.data.comparisons.derived import Derived, Shorter
from jaxalign.data.comparisons.labels import Soft
from jaxalign.data.comparisons.pairs import Pairs
from jaxalign.data.tables.file import File
from jaxalign.evals.objectives import HeldOutObjectives
from jaxalign.evals.pairs import HeldOutPairs
from jaxalign.experiment import Evaluation, Experiment
from jaxalign.feedback.recorded import Recorded
from jaxalign.losses.dpo import DPO
from jaxalign.machine import Placement
from jaxalign.models.lora import LoRA
from jaxalign.models.pretrained import SmolLM2
from jaxalign.objectives.raco import RACO
from jaxalign.training.one_prompt import OnePrompt
from jaxalign.training.optim import AdamW, WarmupLinear
from jaxalign.training.step import Fit

FOLDER = "../shared/data/discopop-tldr"
PAIRS = 21
"""Of a post, mostly."""

TLDR = Derived(
    Pairs(
        File(f"{FOLDER}/pairs.jsonl.gz"),
        prompt=Joined(File(f"{FOLDER}/prompts.jsonl.gz")),
        answers=("output_1", "output_2"),
        label=Soft("p2", better="second"),
    ),
    (Shorter(),),
)

experiment = Experiment(
    model=LoRA(SmolLM2(), rank=16, alpha=32.0),
    feedback=Recorded(
        pairs=ByPrompt(TLDR, 0.1, 0.19),
        heldout=ByPrompt(TLDR, 0.0, 0.03),
        max_prompt_tokens=320,
        max_tokens=96,
    ),
    loss=DPO(beta=0.2),
    combiner=RACO(weights=(0.8, 0.2), c=0.4),
    optimizer=AdamW(WarmupLinear(peak=5e-4, warmup=0.1)),
    fit=Fit(batch_size=PAIRS, rows=OnePrompt(PAIRS, shapes=4), checkpoint_every=5),
    iterations=1,
    swap_every=None,
    evaluation=Evaluation(evals=(HeldOutPairs(), HeldOutObjectives())),
    placement=Placement(score_batch_size=4, remat="dots"),
)
