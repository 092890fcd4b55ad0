"""Comparisons → token ids: prompts as a policy is given them, and of answers what the assistant generates.

An answer is tokenised inside its conversation, as the model's template writes it. What is scored of it is its text and
the token that ends the turn: what the policy itself would have sampled. A classifier is given it up to the token that
it is judged by (`Chat.judged`), which may lie before that one or behind it.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int

from jaxalign.data.comparisons.record import Comparison
from jaxalign.data.comparisons.tokenised import Ids
from jaxalign.errors import DataError
from jaxalign.text.chat import Chat
from jaxalign.text.spans import spans
from jaxalign.types import Prompt


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
    """What `text` makes of comparisons; goes to other processes as it is."""

    chat: Chat
    room: Room

    def __call__(self, block: Sequence[Comparison]) -> list[Ids | str]:
        """The ids of each comparison, or why it is left out. ModelError when template or tokenizer fail."""
        return [self._one(each) for each in block]

    def __reduce__(self) -> tuple:
        # compiled templates cannot be sent; the copy has none
        return Encode, (dataclasses.replace(self.chat), self.room)

    def _one(self, each: Comparison) -> Ids | str:
        room = self.room
        if len(set(each.answers)) < len(each.answers):
            return "twice the same answer"
        try:
            prompt = np.asarray(self.chat.encode(each.prompt.messages, each.prompt.tool_list), np.int32)
            answers = [generated(self.chat, each.prompt, answer) for answer in each.answers]
        except DataError:
            return "a conversation that the chat template refuses"
        if not all(map(len, answers)):
            return "an answer without a token to score"
        long_prompt, longest = len(prompt) > room.prompt, max(map(len, answers))
        if long_prompt and room.long_prompts == "drop":
            return f"a prompt of more than {room.prompt} tokens"
        if longest > room.answer and room.long_answers == "drop":
            return f"an answer of more than {room.answer} tokens"
        cut = [kind for kind, is_so in (("prompt", long_prompt), ("answer", longest > room.answer)) if is_so]
        return Ids(prompt[-room.prompt :], tuple(answer[: room.answer] for answer in answers), tuple(cut))


def generated(chat: Chat, prompt: Prompt, answer: str) -> Int[np.ndarray, " t"]:
    """The tokens of the answer that the assistant generates, the end of its turn among them; for a classifier from the
    first of them to the one that it is judged by."""
    found = spans(chat, [*prompt.messages, {"role": "assistant", "content": answer}], prompt.tool_list)
    own = np.flatnonzero(found.generated & (found.message == len(prompt.messages)))
    if chat.classifies and len(own):
        return found.ids[own[0] : len(chat.judged(found.ids.tolist()))]
    return found.ids[own]
