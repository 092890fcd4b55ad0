"""DPO on recorded pairs, on a small random model, in seconds: what tests use, and a template for new configs.

jaxalign train configs/preference/dpo_tiny.py --workdir runs/dpo_tiny

The pairs are written here: whoever is greeted should greet back. Of your own in a file: `Pairs(File("mine.jsonl"))`.
"""

import json

from jaxalign.data.comparisons.by_prompt import ByPrompt
from jaxalign.data.comparisons.pairs import Pairs
from jaxalign.data.tables.inline import Inline
from jaxalign.evals.pairs import HeldOutPairs
from jaxalign.experiment import Evaluation, Experiment
from jaxalign.feedback.recorded import Recorded
from jaxalign.losses.dpo import DPO
from jaxalign.models.random_llama import RandomLlama
from jaxalign.training.optim import AdamW, WarmupLinear
from jaxalign.training.step import Fit

NAMES = ("Ada", "Bo", "Cy", "Dee", "Eli", "Fay", "Gus", "Hal", "Ida", "Jo", "Kay", "Lou", "Max", "Ned", "Oz", "Pia")

PAIRS = Pairs(
    Inline(
        tuple(
            json.dumps({"prompt": f"{word}, I am {name}.", "chosen": f"Hello {name}!", "rejected": f"{name} who?"})
            for name in NAMES
            for word in ("Hi", "Hey", "Good day", "Hello")
        )
    )
)

experiment = Experiment(
    model=RandomLlama(),
    feedback=Recorded(pairs=ByPrompt(PAIRS, 0.25, 1.0), heldout=ByPrompt(PAIRS, 0.0, 0.25), max_tokens=32),
    loss=DPO(beta=0.1),
    optimizer=AdamW(WarmupLinear(peak=3e-4)),
    fit=Fit(batch_size=8, epochs=3, checkpoint_every=4, evaluate_every=4, keep="best"),
    iterations=1,
    swap_every=None,
    evaluation=Evaluation(evals=(HeldOutPairs(),)),
)
