"""Which token of a rendered conversation belongs to which message, and which ones the assistant generated.

Masks for training come from here: from the place of each message in the rendered text, never from token ids (a pad
token may well be the token that ends a turn) and never from a search for the text (a message may say "user").

A message is found by rendering the conversation once more with marks around the content of every message. When the
text without the marks is what the template writes anyway, the marks say where each content lies; when it is not, the
template looks into the content or rewrites it, and that is an error that names the message.

The assistant generates all that lies between what a prompt for its turn ends with and the end of that turn, whichever
field of the message it is written from: thoughts, text, calls of tools (see `turns`). Where the template itself says
what the assistant generates ({% generation %}), its word counts.
"""

import bisect
import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tokenizers
from jaxtyping import Bool, Int

from jaxalign.errors import DataError
from jaxalign.text import sandbox, turns
from jaxalign.text.chat import Chat, Message
from jaxalign.text.turns import Range

OPEN, CLOSE = "\U0010fff2", "\U0010fff3"
"""Private-use characters around the content of a message."""
MARKS = (sandbox.BEGIN, sandbox.END, OPEN, CLOSE)


@dataclass(frozen=True)
class Spans:
    """A conversation of s tokens. `message` is the index of the message that a token belongs to, -1 for the template.

    `generated` are the tokens that the assistant writes: its turns, with the tokens that end them.
    """

    ids: Int[np.ndarray, " s"]
    message: Int[np.ndarray, " s"]
    generated: Bool[np.ndarray, " s"]


def spans(chat: Chat, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None) -> Spans:
    """Tokens of a whole conversation, as `Chat.render(…, answering=False)` writes it.

    A token that reaches over the edge of a message belongs to the message. Raises DataError, naming the message, when
    the template does not write the messages as they are; ModelError when it fails.
    """
    for index, message in enumerate(messages):
        if set(MARKS).intersection(repr_text(message)):
            raise DataError(f"message {index} holds one of the private-use characters U+10FFF0 to U+10FFF3")
    marked = chat.marked(messages, tools, answering=False)
    text = unmarked(marked)
    # of the whole text: pieces tokenized apart would not give the tokens that the model sees, which merge across them
    encoding = chat.offsets(text)
    ids, offsets = encoding.ids, encoding.offsets  # each time they are asked for, new lists are made
    count = len(ids)
    owner, generated = np.full(count, -1, np.int32), np.zeros(count, bool)
    places = locate(chat, messages, tools, text)
    for index, place in enumerate(places):
        if place is not None:
            owner[covered(offsets, *place)] = index
    for index, (begin, end) in written(chat, messages, tools, marked, places, encoding):
        inside = covered(offsets, begin, end)
        generated[inside] = True
        ends = turn_ends(ids, offsets, inside, text, chat.stop)
        generated[ends] = True
        # what a template's own marks hold behind the end of a turn is in no message
        last = max(ends, default=inside.stop - 1) + 1
        owner[inside.start : last] = np.where(owner[inside.start : last] < 0, index, owner[inside.start : last])
    return Spans(np.asarray(ids, np.int32), owner, generated)


def repr_text(message: Message) -> str:
    """A message as error messages show it."""
    return json.dumps(message, ensure_ascii=False, default=str)


def locate(
    chat: Chat, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None, text: str
) -> list[Range | None]:
    """Where the content of each message lies in `text`; None for what an assistant's message says otherwise."""
    texts = [index for index, message in enumerate(messages) if isinstance(message.get("content"), str)]
    # marks around all of a content stop a template from trimming it, which shows; then they go inside its spaces
    for tight in (False, True):
        places = marked_places(chat, messages, tools, text, texts, tight)
        if places is not None:
            return [places.get(index) for index in range(len(messages))]
    # all together do not fit: which message is it?
    alone = {index: marked_places(chat, messages, tools, text, [index], True) for index in texts}
    for index, place in alone.items():
        if place is None and messages[index].get("role") != "assistant":
            raise rewritten(chat, messages, index)
    places = marked_places(chat, messages, tools, text, [i for i, place in alone.items() if place is not None], True)
    if places is None or all(place is not None for place in alone.values()):
        raise DataError(f"the chat template of {chat.file} does not write the messages side by side")
    return [places.get(index) for index in range(len(messages))]


def rewritten(chat: Chat, messages: Sequence[Message], index: int) -> DataError:
    """The error that names a message whose content cannot be found in the text."""
    role = messages[index].get("role")
    if not isinstance(messages[index].get("content"), str):
        return DataError(f"message {index} ({role}) has no text as content; it cannot be located")
    return DataError(
        f"the chat template of {chat.file} does not write the content of message {index} ({role}) as it is, so that "
        "its tokens cannot be told from the template's"
    )


def marked_places(
    chat: Chat,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] | None,
    text: str,
    which: Sequence[int],
    tight: bool,
) -> dict[int, Range] | None:
    """Where the messages `which` lie, None when marks around their content change what the template writes."""
    marked = [with_marks(message, tight) if index in which else message for index, message in enumerate(messages)]
    rendered = chat.render(marked, tools, answering=False)
    found = ranges(rendered, OPEN, CLOSE)
    # a template may test a content (does it begin with "<think>"?), leave it out, or write it twice
    if unmarked(rendered) != text or len(found) != len(which):
        return None
    places = dict(zip(which, found, strict=True))
    # or write them in another order
    same = (text[begin:end].strip() == messages[i]["content"].strip() for i, (begin, end) in places.items())
    return places if all(same) else None


def with_marks(message: Message, tight: bool) -> Message:
    """The message with marks around its content; if `tight`, inside the spaces at its ends, which templates strip."""
    content = message["content"]
    core = content.strip() if tight else content
    before, _, after = content.partition(core) if core else ("", "", content)
    return {**message, "content": f"{before}{OPEN}{core}{CLOSE}{after}"}


def ranges(marked: str, first: str, last: str) -> list[Range]:
    """Where marked text lies once all marks are taken out."""
    if first not in marked:
        return []
    found, begin = [], None
    # the other kind of marks may stand between: no place in the text either
    for marks, mark in enumerate(re.finditer(f"[{''.join(MARKS)}]", marked)):
        at = mark.start() - marks
        if mark[0] == first:
            begin = at
        elif mark[0] == last and begin is not None:
            found.append((begin, at))
            begin = None
    return found


def unmarked(text: str) -> str:
    """The text without the characters that mark places in it."""
    return functools.reduce(lambda left, mark: left.replace(mark, ""), MARKS, text)


def written(
    chat: Chat,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] | None,
    marked: str,
    places: Sequence[Range | None],
    encoding: tokenizers.Encoding,
) -> list[tuple[int, Range]]:
    """What the assistant generates, and in which message: by the template's own marks, else by its turns."""
    own = ranges(marked, sandbox.BEGIN, sandbox.END)
    if not own:
        ends = [place[0] for i, place in zip(encoding.ids, encoding.offsets, strict=True) if i in chat.stop]
        return turns.of_assistant(chat, messages, tools, unmarked(marked), places, ends)
    spoken = [index for index, message in enumerate(messages) if message.get("role") == "assistant"]
    if len(own) == len(spoken):
        return list(zip(spoken, own, strict=True))
    if None in places:
        raise rewritten(chat, messages, places.index(None))
    # by where a range ends: templates may open it before the content, with a line break or the name of the role
    starts = [place[0] for place in places if place is not None]
    return [(max(0, bisect.bisect_right(starts, end) - 1), (begin, end)) for begin, end in own]


def covered(offsets: Sequence[Range], begin: int, end: int) -> slice:
    """Tokens with a character in [begin, end). Tokens follow the text, so they are neighbours."""
    first = bisect.bisect_right(offsets, begin, key=lambda offset: offset[1])
    last = bisect.bisect_left(offsets, end, lo=first, key=lambda offset: offset[0])
    return slice(first, last if end > begin else first)


def turn_ends(ids: Sequence[int], offsets: Sequence[Range], inside: slice, text: str, stop: Sequence[int]) -> list[int]:
    """The tokens that end a turn inside a range, and the one behind it if there are only spaces between."""
    found = [index for index in range(inside.start, inside.stop) if ids[index] in stop]
    # the model writes the end of its turn, so it is trained on; what the template writes behind it is not
    for index in range(inside.stop, len(ids)):
        if ids[index] in stop:
            return [*found, index]
        first, last = offsets[index]
        if text[first:last].strip():
            break
    return found
