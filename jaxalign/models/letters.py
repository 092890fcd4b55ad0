"""A random Llama over a handful of letters, whose answers can all be listed: the policy of games over strings.

It is the decoder of every other model with a vocabulary of a few letters. Prompts are spelled in the same letters, and
nothing ends an answer but its length.
"""

import dataclasses
import datetime
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxalign.errors import DataError, ModelError
from jaxalign.models.model import Model, split
from jaxalign.models.random_llama import RandomLlama, drawn


@dataclasses.dataclass(frozen=True)
class LetterLlama:
    """Source of a Llama with random weights that speaks the first letters of the alphabet."""

    letters: int = 3
    """a, b, c, …: tokens that there are, at most 26"""
    llama: RandomLlama = RandomLlama(width=32, context=16)
    """shape and seed; its own vocabulary is not used"""

    def problems(self) -> Iterable[str]:
        if not 2 <= self.letters <= len(string.ascii_lowercase):
            yield f"letters must lie in 2 … {len(string.ascii_lowercase)}, got {self.letters}"

    def open(self) -> Model:
        """Raises ModelError when the sizes do not fit each other."""
        for problem in (*self.problems(), *self.llama.problems()):
            raise ModelError(f"LetterLlama: {problem}")
        config = self.llama.config(self.letters)
        source = f"random llama of {self.letters} letters, seed {self.llama.seed}"
        return split(config, Letters(self.letters), source, drawn(config, self.llama.seed))


@dataclasses.dataclass(frozen=True)
class Letters:
    """The conversation: the last message, letter by letter, then the answer's letters."""

    vocab: int
    pad: int = 0
    stop: tuple[int, ...] = ()

    @property
    def fingerprints(self) -> dict[str, str]:
        return {"letters": str(self.vocab)}

    def dated(self, date: datetime.date) -> "Letters":
        return self

    def encode(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> list[int]:
        """Raises DataError for a prompt that is not spelled in these letters."""
        text, known = messages[-1]["content"], string.ascii_lowercase[: self.vocab]
        if not text or not set(text) <= set(known):
            raise DataError(f"prompt {text!r} is not spelled in the letters {known!r}")
        return [known.index(letter) for letter in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(string.ascii_lowercase[int(i)] for i in ids)
