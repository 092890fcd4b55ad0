"""What was answered: a text, or a conversation that ends with the answer and may begin with the prompt."""

from collections.abc import Sequence
from typing import Any

from jaxalign.data import jsonl
from jaxalign.data.comparisons import fields
from jaxalign.data.comparisons.record import Message
from jaxalign.data.jsonl import RowError
from jaxalign.types import Prompt

Found = tuple[str, Any]
"""The name of a field and what stands there."""


def answered(place: str, prompt: Prompt | None, found: Sequence[Found]) -> tuple[Prompt, tuple[str, ...]]:
    """The prompt and the answers of a row whose answers are `found`. RowError where they do not fit together."""
    read = [answer(value, field) for field, value in found]
    before = [conversation for conversation, _ in read if conversation]
    if before and (
        bare := next((field for (field, _), (begin, _) in zip(found, read, strict=True) if not begin), None)
    ):
        raise RowError(bare, "does not begin with a prompt, as others of the row do")
    if before:
        prompt = inside(place, prompt, before, found)
    if prompt is None:
        raise RowError("", f"no prompt: none beside {found[0][0]} and none that it begins with")
    return prompt, tuple(text for _, text in read)


def answer(value: Any, field: str) -> tuple[tuple[Message, ...], str]:
    """The messages before an answer, and its text, which may be empty."""
    value = fields.listed(value, field)
    if not isinstance(value, list):
        return (), jsonl.check_string(value, field)
    places = jsonl.listed(value, field)
    before = tuple(jsonl.check_message(message, place) for message, place in places[:-1])
    last = jsonl.check_message(*places[-1], said=jsonl.check_string)
    if last["role"] != "assistant":
        raise RowError(
            f"{places[-1][1]}.role", f"the last message is the {last['role']}'s; an answer is the assistant's"
        )
    if before and before[-1]["role"] != "user":
        raise RowError(f"{places[-2][1]}.role", f"before the answer stands the {before[-1]['role']}'s message")
    return before, last["content"]


def inside(place: str, prompt: Prompt | None, before: Sequence[tuple[Message, ...]], found: Sequence[Found]) -> Prompt:
    """The prompt that the answers begin with."""
    for (field, _), other in zip(found, before, strict=True):
        if other != before[0]:
            raise RowError(field, f"begins with another prompt than {found[0][0]}")
    if prompt is None:
        return Prompt(place, before[0])
    # the conversation may say more than a prompt that is a text: a system message, earlier turns
    if prompt.messages != before[0] and (len(prompt.messages) > 1 or prompt.text != before[0][-1]["content"]):
        raise RowError(found[0][0], "begins with another prompt than the row's own")
    return Prompt(prompt.id, before[0], prompt.tools)
