"""Prompts of another source with an instruction added to each: how long to answer, in which language, as whom."""

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from jaxalign.data.prompts import BuiltinPrompts, PromptSet, PromptSource, opened
from jaxalign.types import Prompt


@dataclass(frozen=True)
class Instructed:
    """The prompts of another source, each with an instruction behind what the user says last, and one of the system."""

    prompts: PromptSource
    """which prompts"""
    behind: str = ""
    """said behind the user's last message, after a space; empty: nothing"""
    system: str = ""
    """the system's message, of prompts that have none; empty: none"""

    def problems(self) -> Iterable[str]:
        if not (self.behind or self.system):
            yield "behind and system are both empty: name the prompts alone"

    def open(self, cache: pathlib.Path) -> PromptSet:
        """The prompts, opened as their source opens them. Raises what it raises."""
        found = opened(self.prompts, cache)

        def instructed(_: int, number: int) -> Prompt:
            prompt = found[number]
            return dataclasses.replace(prompt, messages=self._messages(prompt.messages))

        return PromptSet(range(len(found)), instructed, None, found.source)

    def _messages(self, messages: tuple[Mapping[str, str], ...]) -> tuple[Mapping[str, str], ...]:
        if self.behind:
            *before, last = messages
            messages = (*before, {**last, "content": f"{last['content']} {self.behind}"})
        if self.system and messages[0]["role"] != "system":
            messages = ({"role": "system", "content": self.system}, *messages)
        return messages


EXAMPLE = Instructed(BuiltinPrompts(), behind="Answer in one short sentence.")
