"""Which token of a rendered conversation belongs to which message, and which ones the assistant generated.

Masks for training come from here: from the place of each message in the rendered text, never from token ids (a pad
token may well be the token that ends a turn) and never from a search for the text (a message may say "user").

A message is found by rendering the conversation once more with marks around the content of every message. When the
text without the marks is what the template writes anyway, the marks say where each content lies; when it is not, the
template looks into the content or rewrites it, and that is an error that names the message. Where the template itself
says what the assistant generates ({% generation %}), its word counts.
"""

import bisect
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from jaxalign.errors import DataError
from jaxalign.text import sandbox
from jaxalign.text.chat import Chat, Message

OPEN, CLOSE = "\U0010fff2", "\U0010fff3"
"""Private-use characters around the content of a message."""
MARKS = (sandbox.BEGIN, sandbox.END, OPEN, CLOSE)
Range = tuple[int, int]
"""First character and the one behind the last."""


@dataclass(frozen=True)
class Spans:
    """A conversation of s tokens. `message` is the index of the message that a token belongs to, -1 for the template.

    `generated` are the tokens that the assistant writes: its messages, and the token that ends its turn.
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
    for index, (begin, end) in enumerate(places):
        owner[covered(offsets, begin, end)] = index
    for index, (begin, end) in written(messages, marked, places):
        inside = covered(offsets, begin, end)
        generated[inside] = True
        for i in turn_ends(ids, offsets, inside, text, chat.stop):
            generated[i] = True
            owner[i] = index if owner[i] < 0 else owner[i]
    return Spans(np.asarray(ids, np.int32), owner, generated)


def repr_text(message: Message) -> str:
    """A message as error messages show it."""
    return json.dumps(message, ensure_ascii=False, default=str)


def locate(
    chat: Chat, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None, text: str
) -> list[Range]:
    """Where each message lies in `text`."""
    texts = [index for index, message in enumerate(messages) if isinstance(message.get("content"), str)]
    # marks around all of a content stop a template from trimming it, which shows; then they go inside its spaces
    for tight in (False, True):
        places = marked_places(chat, messages, tools, text, texts, tight)
        if places is not None:
            return [places[i] if i in places else calls(chat, messages, tools, text, i) for i in range(len(messages))]
    # all together do not fit: which message is it?
    for index in texts:
        if marked_places(chat, messages, tools, text, [index], True) is None:
            raise DataError(
                f"the chat template of {chat.file} does not write the content of message {index} "
                f"({messages[index].get('role')}) as it is, so that its tokens cannot be told from the template's"
            )
    raise DataError(f"the chat template of {chat.file} does not write the messages side by side")


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


def calls(
    chat: Chat, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None, text: str, index: int
) -> Range:
    """Where a message without text lies: an assistant's calls of tools, from the generation prompt on."""
    before = chat.render(messages[:index], tools)
    after = chat.render(messages[: index + 1], tools, answering=False)
    if messages[index].get("role") != "assistant" or not (text.startswith(before) and text.startswith(after)):
        raise DataError(f"message {index} ({messages[index].get('role')}) has no text as content; it cannot be located")
    encoding = chat.offsets(after)
    # up to the stop token that ends the turn; those of earlier turns stand before it
    ends = (place[0] for i, place in zip(encoding.ids, encoding.offsets, strict=True) if i in chat.stop)
    return len(before), next((end for end in ends if end >= len(before)), len(after))


def ranges(marked: str, first: str, last: str) -> list[Range]:
    """Where marked text lies once all marks are taken out."""
    if first not in marked:
        return []
    found, at, begin = [], 0, None
    for character in marked:
        if character == first:
            begin = at
        elif character == last and begin is not None:
            found.append((begin, at))
            begin = None
        elif character not in MARKS:  # the other kind of marks may stand between: no place in the text either
            at += 1
    return found


def unmarked(text: str) -> str:
    """The text without the characters that mark places in it."""
    return functools.reduce(lambda left, mark: left.replace(mark, ""), MARKS, text)


def written(messages: Sequence[Message], marked: str, places: Sequence[Range]) -> list[tuple[int, Range]]:
    """What the assistant generates, and in which message: by the template's own marks, else its messages' content."""
    own = ranges(marked, sandbox.BEGIN, sandbox.END)
    if not own:
        return [(index, places[index]) for index, message in enumerate(messages) if message.get("role") == "assistant"]
    # by where a range ends: templates may open it before the content, with a line break or the name of the role
    starts = [begin for begin, _ in places]
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
