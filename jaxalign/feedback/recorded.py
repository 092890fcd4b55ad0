"""Groups of recorded pairs: people, or another model, have said before which of two answers is better. Or of lone
answers: they have said of each whether it is desirable, or how good it is.

Nobody samples and nobody judges, so an iteration is a fit on pairs that are read by number, and the loop around it is
that of sampled answers: DPO as it was published (Rafailov et al. 2023, arXiv 2305.18290) is one iteration of it.
"""

import pathlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from jaxalign.config.load import components
from jaxalign.contracts.group_size import LONE, named
from jaxalign.data.comparisons.by_prompt import said
from jaxalign.data.comparisons.digests import different, digest
from jaxalign.data.comparisons.source import Comparisons
from jaxalign.data.comparisons.store import Store
from jaxalign.data.groups import PickedGroups, TrainingGroups
from jaxalign.data.order import endless
from jaxalign.data.tables.strict import Tally
from jaxalign.data.tables.table import Table
from jaxalign.errors import DataError
from jaxalign.feedback.contract import Compared, Phases
from jaxalign.feedback.stored import store_of
from jaxalign.machine import Machine
from jaxalign.mesh.program import Program
from jaxalign.models.model import Model
from jaxalign.storage.inputs import Input
from jaxalign.text.pairs import Room
from jaxalign.training.rows import Sizes
from jaxalign.types import Labels, Metrics, Params, Prompt


@dataclass(frozen=True)
class Recorded:
    """Pairs that have been judged before, or lone answers: nobody samples, nobody judges."""

    pairs: Comparisons
    """what is trained on; lone answers where the source has such (`Unpaired`, `Rated`, `Alone`)"""
    heldout: Comparisons | None = None
    """what is never trained on, to measure policies by; no prompt of theirs may be trained on"""
    pairs_per_iteration: int | None = None
    """pairs of each iteration, in a seeded order that has every pair before any again; None: all, every iteration"""
    max_prompt_tokens: int | None = None
    """longest prompt, tokens. None: what the model's context leaves"""
    max_tokens: int = 512
    """longest answer, tokens, its end-of-turn token included"""
    long_prompts: Literal["drop", "keep_end"] = "drop"
    """what becomes of a longer prompt: its pairs are left out, or its beginning is"""
    long_answers: Literal["drop", "keep_start"] = "drop"
    """what becomes of a longer answer: its pair is left out, or its end is, with the end of its turn"""

    oracle: ClassVar[None] = None

    @property
    def responses(self) -> int:
        """Two of pairs, one of lone answers."""
        return self.pairs.responses

    @property
    def holds_out(self) -> bool:
        """Whether there are held-out pairs."""
        return self.heldout is not None

    @property
    def validates(self) -> bool:
        """They are what fits are evaluated on, too."""
        return self.holds_out

    def problems(self) -> Iterable[str]:
        for name, value in (
            ("pairs_per_iteration", self.pairs_per_iteration),
            ("max_prompt_tokens", self.max_prompt_tokens),
        ):
            if value is not None and value < 1:
                yield f"{name} must be at least 1 or None, got {value}"
        if self.max_tokens < 1:
            yield f"max_tokens must be at least 1, got {self.max_tokens}"
        if self.heldout is not None and self.heldout.responses != self.responses:
            both = f"heldout has {named(self.heldout.responses)}, and pairs has {named(self.responses)}"
            yield f"{both}; what is held out must be like what is trained on"

    def sizes(self, model: Model) -> Sizes:
        """What the settings allow; a row's answers are branches, so each has the context behind the prompt."""
        room = model.config.context - self.max_tokens
        return Sizes(min(room, self.max_prompt_tokens or room), self.max_tokens, self.responses)

    def count(self, machine: Machine, together: int = 1) -> int | None:
        """As many as an iteration draws, as if no two had one prompt; else as many as there are, read without being
        tokenised."""
        if self.pairs_per_iteration is not None:
            return self.pairs_per_iteration
        return units_of(self.pairs, together)

    def apart(self, machine: Machine, together: int = 1) -> Mapping[str, int | None]:
        """The held-out pairs."""
        return {} if self.heldout is None else {"heldout": units_of(self.heldout, together)}

    def programs(self, machine: Machine) -> tuple[Program, ...]:
        """None: nothing is computed to have pairs."""
        return ()

    def calls(self, machine: Machine) -> Mapping[str, int]:
        """None."""
        return {}

    def open(self, machine: Machine, cache: pathlib.Path, iterations: int) -> "Recording":
        """The pairs, tokenised for the machine's model."""
        longest = self.sizes(machine.model)
        room = Room(longest.prompt, longest.response, self.long_prompts, self.long_answers)

        def store(source: Comparisons, field: str) -> Store:
            return store_of(source, machine.model.chat, room, cache, field)

        heldout = store(self.heldout, "feedback.heldout") if self.heldout is not None else None
        return Recording(self, store(self.pairs, "feedback.pairs"), heldout, machine.seed)


class Recording:
    """Recorded pairs, iteration after iteration."""

    roles = ("anchor",)

    def __init__(self, spec: Recorded, pairs: Store, heldout: Store | None, seed: int):
        self.spec, self.pairs, self.heldout, self._seed = spec, pairs, heldout, seed

    @property
    def inputs(self) -> Sequence[Input]:
        """What the comparisons say, whatever the bytes of their files."""
        read = {"pairs": (self.spec.pairs, self.pairs), "heldout": (self.spec.heldout, self.heldout)}
        return [
            Input(f"feedback.{name}", "", places(source) or name, found.fingerprint)
            for name, (source, found) in read.items()
            if found is not None
        ]

    @property
    def labels(self) -> Labels:
        """Of the first pair, twice."""
        return self.pairs.take(np.zeros(2, np.int64)).labels

    @property
    def size(self) -> int:
        """Different prompts."""
        return self.pairs.different_prompts

    def first(self, count: int) -> tuple[Prompt, ...]:
        """The first prompts of the data, none twice; a few hundred at most."""
        return self.pairs.first(count)

    def check(self) -> None:
        """DataError for a source that has other groups than it says, and where a held-out prompt is trained on: what is
        measured there is memory."""
        for field, found in (("pairs", self.pairs), ("heldout", self.heldout)):
            if found is not None and found.responses != self.spec.responses:
                raise DataError(f"feedback.{field}: has {named(found.responses)}, not {named(self.spec.responses)}")
        if self.heldout is not None and (both := self.heldout.prompts_in(self.pairs)):
            raise DataError(
                f"feedback.heldout: {both} of its {self.heldout.different_prompts} prompts are trained on; split both "
                "by prompt (`ByPrompt` with ranges that do not overlap)"
            )

    def groups(self, iteration: int) -> TrainingGroups:
        """The pairs of an iteration: a pure function of the seed and how many there are."""
        count = self.spec.pairs_per_iteration
        if count is None:
            return self.pairs
        return PickedGroups(self.pairs, endless(len(self.pairs), self._seed, iteration * count, count))

    def __call__(self, phases: Phases, iteration: int, policy: Params) -> Compared:
        """The iteration's pairs; nothing is made, so nothing is committed."""
        del phases, policy
        groups = self.groups(iteration)
        return Compared(groups, None, None, described(groups))


def units_of(source: Comparisons, together: int) -> int | None:
    """Units of up to so many of the groups of a source, read without being tokenised; None where it cannot be read."""
    try:
        groups = Counter(digest(said(each.prompt)) for each in source.read(Tally()))
    except DataError:
        return None
    return sum(-(-count // together) for count in groups.values())


def places(source: Comparisons | None) -> str:
    """Where the rows of a source stand, for people."""
    tables = [each for each in components(source).values() if isinstance(each, Table)]
    return ", ".join(dict.fromkeys(table.title for table in tables))


def described(groups: TrainingGroups) -> Metrics:
    """How many pairs or lone answers there are, of how many prompts, and how long they are."""
    kind, each = ("answers", ("answer",)) if groups.responses == LONE else ("pairs", ("chosen", "rejected"))
    return {
        f"{kind}/groups": float(len(groups)),
        f"{kind}/prompts": float(different(groups.prompts)),
        f"{kind}/prompt_tokens_mean": float(groups.prompt_lengths.mean(dtype=np.float64)),
        **{
            f"{kind}/{who}_tokens_mean": float(groups.lengths[:, k].mean(dtype=np.float64))
            for k, who in enumerate(each)
        },
    }
