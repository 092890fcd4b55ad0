"""How long prompts are, and which are too long: asked by whoever rolls out, and by whoever looks before."""

from collections.abc import Iterable, Sequence

from jaxalign.errors import DataError
from jaxalign.models.model import Conversation
from jaxalign.types import Prompt

NAMED = 10
"""Prompts that an error names at most."""


def encoded(chat: Conversation, prompt: Prompt) -> list[int]:
    """Tokens of the prompt as a policy reads it: with its tools, and with what an answer begins with."""
    return chat.encode(prompt.messages, prompt.tool_list)


def refuse_longer(lengths: Iterable[tuple[str, int]], limit: int, reason: str, remedy: str) -> None:
    """DataError naming every prompt, by id and tokens, that is longer than `limit`; `reason` is why it is refused, and
    `remedy` what else to do than to shorten it."""
    long = [f"{id} ({tokens} tokens)" for id, tokens in lengths if tokens > limit]
    if long:
        raise DataError(
            f"{len(long)} prompts are longer than {limit} tokens, {reason}: {listed(long)}. "
            f"Shorten or remove them, or {remedy}"
        )


def listed(names: Sequence[str]) -> str:
    """The first `NAMED` names, and whether there are more."""
    return ", ".join(names[:NAMED]) + (" …" if len(names) > NAMED else "")
