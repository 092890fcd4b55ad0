"""A reward model on recorded pairs, a head on a small random trunk, in seconds: what tests use.

jaxalign train configs/preference/bt_tiny.py --workdir runs/bt_tiny
jaxalign export runs/bt_tiny runs/judge          a sequence classifier, for `RewardModel` or transformers

The pairs are those of `dpo_tiny`. The trunk stays as it is, so that each answer goes through it once.
"""

import dataclasses

from dpo_tiny import experiment as dpo

from jaxalign.evals.calibration import Calibration
from jaxalign.evals.pairs import HeldOutPairs
from jaxalign.experiment import Evaluation
from jaxalign.losses.bradley_terry import BradleyTerry
from jaxalign.models.headed import Headed
from jaxalign.models.random_llama import RandomLlama
from jaxalign.training.optim import AdamW, WarmupLinear
from jaxalign.training.step import Fit

experiment = dataclasses.replace(
    dpo,
    model=Headed(RandomLlama(), outputs=1, names=("reward",), trunk="frozen"),
    loss=BradleyTerry(),
    optimizer=AdamW(WarmupLinear(peak=3e-2)),
    fit=Fit(batch_size=8, epochs=3, checkpoint_every=4, evaluate_every=4, keep="best"),
    evaluation=Evaluation(evals=(HeldOutPairs(), Calibration())),
)
