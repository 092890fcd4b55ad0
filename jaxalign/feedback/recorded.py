"""Groups of recorded pairs: people, or another model, have said before which of two answers is better.

Nobody samples and nobody judges, so an iteration is a fit on pairs that are read by number, and the loop around it is
that of sampled answers: DPO as it was published (Rafailov et al. 2023, arXiv 2305.18290) is one iteration of it.
"""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Int

from jaxalign.data.comparisons.source import Comparisons
from jaxalign.data.groups import PickedGroups, TrainingGroups
from jaxalign.data.order import endless
from jaxalign.data.tables.strict import Tally
from jaxalign.errors import DataError
from jaxalign.feedback.contract import Compared, Phases
from jaxalign.feedback.tokenised import Tokenised, tokenised
from jaxalign.machine import Machine
from jaxalign.mesh.program import Program
from jaxalign.models.model import Model
from jaxalign.storage.inputs import Input
from jaxalign.training.rows import Sizes
from jaxalign.types import Labels, Metrics, Params, Prompt


@dataclass(frozen=True)
class Recorded:
    """Pairs that have been judged before: nobody samples, nobody judges."""

    pairs: Comparisons
    """what is trained on"""
    heldout: Comparisons | None = None
    """pairs that are never trained on, to measure policies by; no prompt of theirs may be trained on"""
    pairs_per_iteration: int | None = None
    """pairs of each iteration, in a seeded order that has every pair before any again; None: all, every iteration"""
    max_prompt_tokens: int | None = None
    """longest prompt, tokens; pairs of longer ones are left out. None: what the model's context leaves"""
    max_tokens: int = 512
    """longest answer, tokens, its end-of-turn token included; pairs with a longer one are left out"""

    oracle: ClassVar[None] = None

    @property
    def holds_out(self) -> bool:
        """Whether there are held-out pairs."""
        return self.heldout is not None

    def problems(self) -> Iterable[str]:
        for name, value in (
            ("pairs_per_iteration", self.pairs_per_iteration),
            ("max_prompt_tokens", self.max_prompt_tokens),
        ):
            if value is not None and value < 1:
                yield f"{name} must be at least 1 or None, got {value}"
        if self.max_tokens < 1:
            yield f"max_tokens must be at least 1, got {self.max_tokens}"

    def sizes(self, model: Model) -> Sizes:
        """What the settings allow; a row's answers are branches, so each has the context behind the prompt."""
        room = model.config.context - self.max_tokens
        return Sizes(min(room, self.max_prompt_tokens or room), self.max_tokens)

    def count(self, machine: Machine) -> int | None:
        """As many as an iteration draws; else as many as there are, read without being tokenised."""
        if self.pairs_per_iteration is not None:
            return self.pairs_per_iteration
        try:
            return sum(1 for _ in self.pairs.read(Tally()))
        except DataError:
            return None

    def programs(self, machine: Machine) -> tuple[Program, ...]:
        """None: nothing is computed to have pairs."""
        return ()

    def calls(self, machine: Machine) -> Mapping[str, int]:
        """None."""
        return {}

    def open(self, machine: Machine, cache: pathlib.Path, iterations: int) -> "Recording":
        """The pairs, tokenised for the machine's model."""
        chat, longest = machine.model.chat, self.sizes(machine.model)
        pairs = tokenised(self.pairs.read(Tally()), chat, longest, "feedback.pairs")
        if self.heldout is None:
            return Recording(self, pairs, None, machine.seed)
        heldout = tokenised(self.heldout.read(Tally()), chat, longest, "feedback.heldout")
        return Recording(self, pairs, heldout, machine.seed)


class Recording:
    """Recorded pairs, iteration after iteration."""

    roles = ("anchor",)

    def __init__(self, spec: Recorded, pairs: Tokenised, heldout: Tokenised | None, seed: int):
        self.spec, self._pairs, self._heldout, self._seed = spec, pairs, heldout, seed

    @property
    def inputs(self) -> Sequence[Input]:
        """What the comparisons say, whatever the bytes of their files."""
        named = {"feedback.pairs": self._pairs, "feedback.heldout": self._heldout}
        return [Input(field, "", field, found.fingerprint) for field, found in named.items() if found is not None]

    @property
    def pairs(self) -> TrainingGroups:
        """All that there are."""
        return self._pairs.pairs

    @property
    def heldout(self) -> TrainingGroups | None:
        """Those that are never trained on."""
        return None if self._heldout is None else self._heldout.pairs

    @property
    def left_out(self) -> Mapping[str, int]:
        """Comparisons that are not among the pairs, by reason."""
        return self._pairs.left_out

    @property
    def labels(self) -> Labels:
        """Of the first pair, twice."""
        return self.pairs.take(np.zeros(2, np.int64)).labels

    @property
    def size(self) -> int:
        """Different prompts."""
        return len(self._pairs.keys)

    def first(self, count: int) -> tuple[Prompt, ...]:
        """The first prompts of the data, none twice; a few hundred at most."""
        return self._pairs.seen[:count]

    def check(self) -> None:
        """DataError where a held-out prompt is trained on: what is measured there is memory."""
        held = frozenset() if self._heldout is None else self._heldout.keys
        if both := len(self._pairs.keys & held):
            raise DataError(
                f"feedback.heldout: {both} of its {len(held)} prompts are trained on; split both by prompt (`ByPrompt` "
                "with ranges that do not overlap)"
            )

    def numbers(self, iteration: int) -> Int[np.ndarray, " n"]:
        """The pairs of an iteration: a pure function of the seed and how many there are."""
        count = self.spec.pairs_per_iteration
        if count is None:
            return np.arange(len(self.pairs))
        return endless(len(self.pairs), self._seed, iteration * count, count)

    def __call__(self, phases: Phases, iteration: int, policy: Params) -> Compared:
        """The iteration's pairs; nothing is made, so nothing is committed."""
        del phases, policy
        groups = PickedGroups(self.pairs, self.numbers(iteration))
        return Compared(groups, None, None, described(groups))


def described(groups: TrainingGroups) -> Metrics:
    """How many pairs there are, of how many prompts, and how long they are."""
    return {
        "pairs/groups": float(len(groups)),
        "pairs/prompts": float(len(np.unique(groups.prompts))),
        "pairs/prompt_tokens_mean": float(groups.prompt_lengths.mean(dtype=np.float64)),
        "pairs/chosen_tokens_mean": float(groups.lengths[:, 0].mean(dtype=np.float64)),
        "pairs/rejected_tokens_mean": float(groups.lengths[:, 1].mean(dtype=np.float64)),
    }
