"""Small experiments on recorded pairs, and feedback whose pairs are what a run has sampled."""

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import ClassVar

import jax
import numpy as np

from jaxalign.config.load import load, override
from jaxalign.data.comparisons.alone import Alone
from jaxalign.data.comparisons.pairs import Pairs
from jaxalign.data.comparisons.record import Comparison
from jaxalign.data.comparisons.store import Store, stored
from jaxalign.data.comparisons.tokenised import Ids
from jaxalign.data.groups import RolledGroups
from jaxalign.data.tables.inline import Inline
from jaxalign.data.tables.strict import Tally
from jaxalign.experiment import Experiment
from jaxalign.feedback.recorded import Recorded, Recording
from jaxalign.progress import Unseen
from jaxalign.storage.rundir import read_run
from jaxalign.types import GroupLogps, Groups, Prompt, Rollouts

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


@dataclasses.dataclass(frozen=True)
class Likelier:
    """A loss of log-probs that reads lone answers: desirable ones are made likelier, others less likely."""

    responses: ClassVar[int | None] = 1
    needs: ClassVar[tuple[str, ...]] = ("anchor",)

    def __call__(self, logps: GroupLogps) -> jax.Array:
        return -jax.nn.log_sigmoid(0.1 * (logps.sums - logps.anchor)[:, 0] * (2 * logps.prefer - 1))


def alone(experiment: Experiment) -> Experiment:
    """The experiment on the answers of its pairs, one by one."""
    both = {name: Alone(getattr(experiment.feedback, name)) for name in ("pairs", "heldout")}
    return dataclasses.replace(experiment, feedback=dataclasses.replace(experiment.feedback, **both), loss=Likelier())


@dataclasses.dataclass(frozen=True)
class Told:
    """Groups that a run has sampled, as comparisons whose texts are token ids."""

    responses: ClassVar[int] = 2
    rolled: RolledGroups

    def read(self, tally: Tally) -> Iterator[Comparison]:
        taken = self.rolled.take(np.arange(len(self.rolled)))
        for row in range(len(self.rolled)):
            prompt = json.dumps(taken.prompt[row, : taken.prompt_lengths[row]].tolist())
            answers = (json.dumps(taken.tokens[row, side, : taken.lengths[row, side]].tolist()) for side in (0, 1))
            yield Comparison(
                Prompt(str(row), ({"role": "user", "content": prompt},)),
                tuple(answers),
                float(taken.labels.prefer[row]),
                tuple(map(float, taken.labels.votes[row])),
                f"group {row}",
                weight=float(taken.weight[row]),
            )


def ids(block: Sequence[Comparison]) -> list[Ids | str]:
    """The ids that the texts are."""
    texts = ([each.prompt.text, *each.answers] for each in block)
    made = [[np.array(json.loads(text), np.int32) for text in row] for row in texts]
    return [Ids(prompt, tuple(answers)) for prompt, *answers in made]


def kept(folder: pathlib.Path, rolled: RolledGroups) -> Store:
    """A store that holds the groups."""
    return stored(folder, Told(rolled), ids, "groups", lambda total: Unseen(), workers=1)


@dataclasses.dataclass(frozen=True)
class Remembered(Recorded):
    """What iteration 0 of the run at `run` has sampled and judged."""

    run: str = ""

    def open(self, machine, cache, iterations):
        before = read_run(self.run)
        rolled = RolledGroups(before.load(0, "rollouts", Rollouts), before.load(0, "groups", Groups))
        return Recording(self, kept(cache / "kept", rolled), None, machine.seed)
