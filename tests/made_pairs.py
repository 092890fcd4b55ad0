"""Small experiments on recorded pairs, and feedback whose pairs are what a run has sampled."""

import dataclasses
import json
import pathlib
from collections import Counter

import numpy as np

from jaxalign.config.load import load, override
from jaxalign.data.comparisons.pairs import Pairs
from jaxalign.data.groups import RolledGroups
from jaxalign.data.tables.inline import Inline
from jaxalign.experiment import Experiment
from jaxalign.feedback.recorded import Recorded, Recording
from jaxalign.feedback.tokenised import PairTable, Tokenised
from jaxalign.storage.rundir import read_run
from jaxalign.types import Groups, Rollouts

CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "preference" / "dpo_tiny.py"
SMALL = (
    *("--fit.epochs", "1", "--fit.checkpoint_every", "2", "--fit.evaluate_every", "2"),
    "--placement.mesh.fsdp",
    "1",
)


def dpo(*overrides: str) -> Experiment:
    """Seven steps on fifty pairs, an evaluation on fourteen others after every second, on one device."""
    return override(override(load(CONFIG), SMALL), overrides)


def inline(*rows: object) -> Pairs:
    """Pairs of rows {prompt, chosen, rejected}, or (prompt, chosen, rejected)."""
    names = ("prompt", "chosen", "rejected")
    made = [dict(zip(names, row, strict=True)) if isinstance(row, tuple) else row for row in rows]
    return Pairs(Inline(tuple(map(json.dumps, made))))


def worsening(*overrides: str) -> Experiment:
    """Held-out pairs say the contrary of those trained on: the first evaluation is the best."""
    made = dpo(*overrides)
    contrary = [(f"Moin, I am {name}.", f"{name} who?", f"Hello {name}!") for name in ("Qi", "Ray", "Sam", "Tess")]
    return dataclasses.replace(made, feedback=dataclasses.replace(made.feedback, heldout=inline(*contrary)))


def table(rolled: RolledGroups) -> PairTable:
    """The groups as a table of pairs holds them."""
    taken = rolled.take(np.arange(len(rolled)))
    ids = [
        piece
        for row in range(len(rolled))
        for piece in (
            taken.prompt[row, : taken.prompt_lengths[row]],
            *(taken.tokens[row, side, : taken.lengths[row, side]] for side in (0, 1)),
        )
    ]
    sizes = np.column_stack([taken.prompt_lengths, taken.lengths]).astype(np.int32)
    return PairTable(np.concatenate(ids), sizes, rolled.prompts, taken.weight, taken.labels)


@dataclasses.dataclass(frozen=True)
class Remembered(Recorded):
    """What iteration 0 of the run at `run` has sampled and judged."""

    run: str = ""

    def open(self, machine, cache, iterations):
        before = read_run(self.run)
        rolled = RolledGroups(before.load(0, "rollouts", Rollouts), before.load(0, "groups", Groups))
        return Recording(self, Tokenised(table(rolled), "0" * 64, frozenset(), Counter(), ()), None, machine.seed)
