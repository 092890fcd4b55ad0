"""RACO on recorded pairs, on a small random model with LoRA, in seconds: what tests use, and a template of two
objectives that are at odds.

    jaxalign train configs/raco/raco_tiny.py --workdir runs/raco_tiny

Whoever is greeted should greet back, and say little: the first is in the file, the second follows from the answers.
"""

import json

from jaxalign.data.comparisons.by_prompt import ByPrompt
from jaxalign.data.comparisons.derived import Derived, Shorter
from jaxalign.data.comparisons.pairs import Pairs
from jaxalign.data.tables.inline import Inline
from jaxalign.evals.objectives import HeldOutObjectives
from jaxalign.evals.pairs import HeldOutPairs
from jaxalign.experiment import Evaluation, Experiment
from jaxalign.feedback.recorded import Recorded
from jaxalign.losses.dpo import DPO
from jaxalign.models.lora import LoRA
from jaxalign.models.random_llama import RandomLlama
from jaxalign.objectives.raco import RACO
from jaxalign.training.optim import AdamW, WarmupLinear
from jaxalign.training.step import Fit

NAMES = ("Ada", "Bo", "Cy", "Dee", "Eli", "Fay", "Gus", "Hal", "Ida", "Jo", "Kay", "Lou", "Max", "Ned", "Oz", "Pia")
WORDS = ("Hi", "Hey", "Good day", "Hello")


def greeted(word: str, name: str) -> str:
    """A greeting that is answered, and one that is not, mostly in fewer words."""
    rude = f"{name} who?" if word != "Hey" else f"{name} who? I do not know any."
    return json.dumps({"prompt": f"{word}, I am {name}.", "chosen": f"Hello {name}, how are you?", "rejected": rude})


GREETINGS = Derived(
    Pairs(Inline(tuple(greeted(word, name) for name in NAMES for word in WORDS))),
    (Shorter(),),
)

experiment = Experiment(
    model=LoRA(RandomLlama(), rank=4, alpha=8.0),
    feedback=Recorded(pairs=ByPrompt(GREETINGS, 0.25, 1.0), heldout=ByPrompt(GREETINGS, 0.0, 0.25), max_tokens=48),
    loss=DPO(beta=0.2),
    combiner=RACO(weights=(0.8, 0.2), c=0.4),
    optimizer=AdamW(WarmupLinear(peak=3e-3)),
    fit=Fit(batch_size=8, epochs=3, checkpoint_every=4),
    iterations=1,
    swap_every=None,
    evaluation=Evaluation(evals=(HeldOutPairs(), HeldOutObjectives())),
)
