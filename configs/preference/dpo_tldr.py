"""DPO on summaries of Reddit posts that a judge has compared (Rafailov et al. 2023, arXiv 2305.18290), SmolLM2-135M.

    jaxalign train configs/preference/dpo_tldr.py --workdir runs/dpo_tldr

The data are 17,355 pairs of summaries of 642 posts with soft labels, P(second is better); pairs and posts are files of
their own, joined by `prompt_id`. Wherever yours lie: `--feedback.pairs.source.table.path FILE` and the like. Posts are
split by what they say: those of the first 2 % of the range are held out, the next 8 % are left for others to use.
A pair counts with its probability (conservative DPO). 160 pairs are drawn, 40 steps: enough to see the held-out loss
fall, on a laptop: from .693 to .498 in 19 minutes of one run (`BENCHMARKS.md`). `--feedback.pairs_per_iteration none`
takes all.
"""

from jaxalign.data.comparisons.asked import Joined
from jaxalign.data.comparisons.by_prompt import ByPrompt
from jaxalign.data.comparisons.labels import Soft
from jaxalign.data.comparisons.pairs import Pairs
from jaxalign.data.tables.file import File
from jaxalign.evals.pairs import HeldOutPairs
from jaxalign.experiment import Evaluation, Experiment
from jaxalign.feedback.recorded import Recorded
from jaxalign.losses.dpo import DPO
from jaxalign.machine import Placement
from jaxalign.models.pretrained import SmolLM2
from jaxalign.training.one_prompt import OnePrompt
from jaxalign.training.optim import AdamW, WarmupLinear
from jaxalign.training.step import Fit

FOLDER = "../shared/data/discopop-tldr"

TLDR = Pairs(
    File(f"{FOLDER}/pairs.jsonl.gz"),
    prompt=Joined(File(f"{FOLDER}/prompts.jsonl.gz")),
    answers=("output_1", "output_2"),
    label=Soft("p2", better="second"),
)

FEEDBACK = Recorded(
    pairs=ByPrompt(TLDR, 0.1, 1.0),
    heldout=ByPrompt(TLDR, 0.0, 0.02),
    pairs_per_iteration=160,
    max_prompt_tokens=640,
    max_tokens=160,
)

experiment = Experiment(
    model=SmolLM2(),
    feedback=FEEDBACK,
    loss=DPO(beta=0.1),
    optimizer=AdamW(WarmupLinear(peak=1e-5, warmup=0.1)),
    fit=Fit(
        batch_size=4,
        rows=OnePrompt(shapes=4),
        scored_rows=OnePrompt(16, shapes=4),
        checkpoint_every=20,
        evaluate_every=20,
        keep="best",
    ),
    iterations=1,
    swap_every=None,
    evaluation=Evaluation(evals=(HeldOutPairs(),)),
    placement=Placement(score_batch_size=4, remat="dots"),
)
