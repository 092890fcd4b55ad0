"""Conversations as a judge's token ids; those longer than its context are refused before anything is computed, or their
prompt is cut."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Literal

import numpy as np
from jaxtyping import Float

from jaxalign.errors import DataError
from jaxalign.text.chat import Chat
from jaxalign.types import Prompt

TooLong = Literal["refuse", "cut"]
"""What becomes of a prompt whose conversations a judge cannot read whole: nobody is judged, or the judge sees the end
of the prompt only, the same for all its answers, which is noted."""

Written = Callable[[int, Prompt], list[str]]
"""(number, prompt) → the conversations that a judge reads about prompt number so-and-so, in its template."""


def tokens(
    prompts: Sequence[Prompt], written: Written, chat: Chat, context: int, too_long: TooLong, who: str
) -> tuple[list[list[list[int]]], Float[np.ndarray, " b"]]:
    """Ids of each prompt's conversations, 1 to `context` each, and 1 for each prompt that was cut to make them fit.

    Raises DataError, by judge and prompt, for those that do not fit.
    """
    texts = [written(number, prompt) for number, prompt in enumerate(prompts)]
    flat = chat.encode_all([text for group in texts for text in group])
    bounds = pairwise(accumulate(map(len, texts), initial=0))
    groups = [flat[start:stop] for start, stop in bounds]
    cut = np.zeros(len(prompts), np.float32)
    for number, (prompt, group) in enumerate(zip(prompts, groups, strict=True)):
        if not all(group):
            raise DataError(f"{who}: its template makes no tokens of an answer to prompt {prompt.id!r}")
        if longest(group) > context:

            def read(shown: Prompt, number: int = number) -> list[list[int]]:
                return chat.encode_all(written(number, shown))

            groups[number], cut[number] = fitted(prompt, read, context, too_long, who), 1
    return groups, cut


def longest(conversations: Sequence[Sequence[int]]) -> int:
    """Tokens of the longest; 0 where there are none."""
    return max(map(len, conversations), default=0)


def fitted(
    prompt: Prompt, read: Callable[[Prompt], list[list[int]]], context: int, too_long: TooLong, who: str
) -> list[list[int]]:
    """The conversations about a prompt that is too long, without as little of its start as can be. `read` gives the ids
    of those about a prompt.

    Raises DataError, by judge and prompt, where the policy is to refuse, or where the answers alone are too long.
    """
    name = f"{who}: prompt {prompt.id!r} with its longest answer has {longest(read(prompt))} tokens, it reads {context}"
    if too_long == "refuse":
        raise DataError(f'{name}; shorten the answers, or let it see the end of such prompts: too_long = "cut"')
    kept, cut = 0, sum(len(message["content"]) for message in prompt.messages)
    if longest(read(without(prompt, cut))) > context:
        raise DataError(f"{name}, and too many also without the prompt")
    while cut - kept > 1:  # too long without the first `kept` characters, not without the first `cut`
        middle = (kept + cut) // 2
        kept, cut = (kept, middle) if longest(read(without(prompt, middle))) <= context else (middle, cut)
    return read(without(prompt, cut))


def without(prompt: Prompt, characters: int) -> Prompt:
    """The prompt without its first characters; messages that lose all of theirs stay, as templates count turns."""
    messages = []
    for message in prompt.messages:
        content = message["content"]
        messages.append({**message, "content": content[characters:]})
        characters -= min(characters, len(content))
    return replace(prompt, messages=tuple(messages))
