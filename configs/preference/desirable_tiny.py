"""A classifier of good and bad answers, from answers that were judged one by one, in seconds: what tests use.

jaxalign train configs/preference/desirable_tiny.py --workdir runs/desirable_tiny
jaxalign export runs/desirable_tiny runs/classifier          a sequence classifier of two classes

The answers are written here: whoever is greeted should greet back. Of your own in a file, one answer a row:
`Unpaired(File("mine.jsonl"))`. Answers rated on a scale: `Rated(…)` with the loss `Ratings`, one output a rating. Pairs
taken apart: `Alone(Pairs(…))`.
"""

import dataclasses
import json

from bt_tiny import experiment as reward_model
from dpo_tiny import NAMES

from jaxalign.data.comparisons.by_prompt import ByPrompt
from jaxalign.data.comparisons.unpaired import Unpaired
from jaxalign.data.tables.inline import Inline
from jaxalign.feedback.recorded import Recorded
from jaxalign.losses.classes import Desirable
from jaxalign.models.headed import Headed
from jaxalign.models.random_llama import RandomLlama

ANSWERS = Unpaired(
    Inline(
        tuple(
            json.dumps({"prompt": f"{word}, I am {name}.", "completion": said.format(name), "label": good})
            for name in NAMES
            for word in ("Hi", "Hey", "Good day", "Hello")
            for said, good in (("Hello {}!", True), ("{} who?", False))
        )
    )
)

experiment = dataclasses.replace(
    reward_model,
    model=Headed(RandomLlama(), outputs=2, names=("bad", "good"), trunk="frozen"),
    feedback=Recorded(pairs=ByPrompt(ANSWERS, 0.25, 1.0), heldout=ByPrompt(ANSWERS, 0.0, 0.25), max_tokens=32),
    loss=Desirable(),
)
