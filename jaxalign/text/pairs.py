"""Comparisons → token ids: prompts as a policy is given them, and of answers what the assistant generates.

An answer is tokenised inside its conversation, as the model's template writes it. What is scored of it is its text and
the token that ends the turn: what the policy itself would have sampled. A classifier is given it up to the token that
it is judged by (`Chat.judged`), which may lie before that one or behind it.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from jaxalign.data.comparisons.record import Comparison
from jaxalign.data.comparisons.tokenised import Ids
from jaxalign.errors import DataError
from jaxalign.text.answers import Asked, Beside, Tokens, asked, beside, learned, located, surroundings
from jaxalign.text.chat import Chat
from jaxalign.text.spans import repr_text
from jaxalign.types import Prompt

KEPT = 1024
"""Prompts; some 10 kB each."""
REFUSED = "a conversation that the chat template refuses"


@dataclass(frozen=True)
class Room:
    """The longest prompt and answer that are trained on, tokens, and what becomes of longer ones.

    A pair with a dropped part is left out: what is behind a cut is what people compared. What is cut instead is the
    beginning of a prompt, or the end of an answer, which then has no end of its turn, as one that a policy did not
    finish.
    """

    prompt: int
    """longest prompt"""
    answer: int
    """longest answer, its end-of-turn token included"""
    long_prompts: Literal["drop", "keep_end"] = "drop"
    """what becomes of longer prompts"""
    long_answers: Literal["drop", "keep_start"] = "drop"
    """what becomes of longer answers"""

    def problems(self) -> Iterable[str]:
        for name, value in (("prompt", self.prompt), ("answer", self.answer)):
            if value < 1:
                yield f"{name} must be at least 1, got {value}"


@dataclass(frozen=True)
class Encode:
    """What `text` makes of comparisons; goes to other processes as it is. The last `KEPT` prompts are remembered, as
    people compare many answers to each."""

    chat: Chat
    room: Room
    known: dict[tuple[str, ...], Asked | None] = field(default_factory=dict, init=False, compare=False, repr=False)

    def __call__(self, block: Sequence[Comparison]) -> list[Ids | str]:
        """The ids of each comparison, or why it is left out. ModelError when template or tokenizer fail."""
        for old in list(self.known)[:-KEPT]:
            del self.known[old]
        new = {named(each.prompt): each.prompt for each in block if named(each.prompt) not in self.known}
        self.known.update(zip(new, asked(self.chat, list(new.values())), strict=True))
        laid = [self._laid(each) for each in block]
        parts = [part for each in laid if not isinstance(each, str) for part in each]
        read = iter(beside(self.chat, [part for part in parts if isinstance(part, Beside)]))
        return [
            each
            if isinstance(each, str)
            else self._one(one.prompt, [next(read) if isinstance(part, Beside) else part for part in each])
            for one, each in zip(block, laid, strict=True)
        ]

    def __reduce__(self) -> tuple:
        # compiled templates cannot be sent; the copy has none
        return Encode, (dataclasses.replace(self.chat), self.room)

    def _laid(self, each: Comparison) -> list[Tokens | Beside] | str:
        """Where each answer is to be read, or its tokens, or why the comparison is left out."""
        if len(set(each.answers)) < len(each.answers):
            return "twice the same answer"
        try:
            return [self._answer(named(each.prompt), answer) for answer in each.answers]
        except DataError:
            return REFUSED

    def _answer(self, name: tuple[str, ...], answer: str) -> Tokens | Beside:
        to = self.known[name]
        if to is None:
            raise DataError(REFUSED)
        if to.around is not None and surroundings(self.chat, to, answer) == to.around:
            return Beside(to, answer)
        found = located(self.chat, to.prompt, answer)
        if to.around is None:
            self.known[name] = learned(self.chat, to, answer, found)
        return found

    def _one(self, prompt: Prompt, answers: list[Tokens | None]) -> Ids | str:
        room, to = self.room, self.known[named(prompt)]
        told = [answer for answer in answers if answer is not None]
        if to is None or len(told) < len(answers):
            return REFUSED
        if not all(map(len, told)):
            return "an answer without a token to score"
        long_prompt, longest = len(to.ids) > room.prompt, max(map(len, told))
        if long_prompt and room.long_prompts == "drop":
            return f"a prompt of more than {room.prompt} tokens"
        if longest > room.answer and room.long_answers == "drop":
            return f"an answer of more than {room.answer} tokens"
        cut = [kind for kind, is_so in (("prompt", long_prompt), ("answer", longest > room.answer)) if is_so]
        return Ids(to.ids[-room.prompt :], tuple(answer[: room.answer] for answer in told), tuple(cut))


def named(prompt: Prompt) -> tuple[str, ...]:
    """All that a template is given of a prompt."""
    return prompt.tools, *map(repr_text, prompt.messages)
