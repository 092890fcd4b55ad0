"""A general preference model of summaries of Reddit posts (arXiv 2410.02197): a head on SmolLM2-135M, on a laptop.

    jaxalign train configs/preference/gpm_tldr.py --workdir runs/gpm_tldr
    jaxalign export runs/gpm_tldr runs/judge            for `PreferenceModel`, or transformers

The data are those of `dpo_tldr`: 17,355 pairs of 8,246 summaries of 642 posts. The model learns from half of the posts
and is measured on the other; the judge that evaluates what this one trained is the same with the halves exchanged:

    --feedback.pairs.begin 0.5 --feedback.pairs.end 1 --feedback.heldout.begin 0 --feedback.heldout.end 0.5

The trunk is the first 18 of 30 layers, frozen, which each summary goes through once (`training/features.py`); the fit
of the head takes seconds. Middle layers rank summaries better than the last ones, and cost less.

One run told the preferred one of .701 [.682, .723] of 7,167 pairs of other posts (`BENCHMARKS.md`); the words of the
summaries alone tell .704 (`jaxalign data … --signal`, which learns from four fifths of the posts and not from half).
"""

from dpo_tldr import TLDR

from jaxalign.data.comparisons.by_prompt import ByPrompt
from jaxalign.evals.calibration import Calibration
from jaxalign.evals.pairs import HeldOutPairs
from jaxalign.experiment import Evaluation, Experiment
from jaxalign.feedback.recorded import Recorded
from jaxalign.losses.general_preference import GeneralPreference
from jaxalign.machine import Placement
from jaxalign.models.headed import Headed
from jaxalign.models.pretrained import SmolLM2
from jaxalign.training.optim import AdamW, WarmupLinear
from jaxalign.training.step import Fit

MODEL = Headed(SmolLM2(), outputs=8, trunk="frozen", layers=18)

FEEDBACK = Recorded(
    pairs=ByPrompt(TLDR, 0.0, 0.5), heldout=ByPrompt(TLDR, 0.5, 1.0), max_prompt_tokens=640, max_tokens=400
)

experiment = Experiment(
    model=MODEL,
    feedback=FEEDBACK,
    loss=GeneralPreference(),
    optimizer=AdamW(WarmupLinear(peak=1e-3, warmup=0.1), weight_decay=1.0),
    fit=Fit(batch_size=256, epochs=10, checkpoint_every=1000),
    iterations=1,
    swap_every=None,
    evaluation=Evaluation(evals=(HeldOutPairs(), Calibration())),
    placement=Placement(score_batch_size=4),
)
