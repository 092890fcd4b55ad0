"""Where each turn of the assistant lies in a rendered conversation whose template does not say so itself.

A turn begins where a prompt for it ends: the conversation up to there, rendered with the generation prompt, is what the
text begins with. It ends with the token that ends turns. Templates that drop thoughts from earlier turns write another
text once the conversation goes on; the turn then begins behind the generation prompt, found in front of the content.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxalign.errors import DataError
from jaxalign.text.chat import Chat, Message

Range = tuple[int, int]
"""First character and the one behind the last."""
BESIDES = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking")
"""What else than its content an assistant's message may say."""


@dataclass(frozen=True)
class Conversation:
    """A conversation and its `text`, the places of the contents in it, and where each token begins that ends a turn."""

    chat: Chat
    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]] | None
    text: str
    places: Sequence[Range | None]
    ends: Sequence[int]

    def prompt(self, index: int) -> str:
        """What is sampled from before message `index`."""
        return self.chat.render(self.messages[:index], self.tools)

    def until(self, index: int) -> str:
        """The conversation without message `index` and those behind it."""
        return self.chat.render(self.messages[:index], self.tools, answering=False)

    def end(self, begin: int, limit: int) -> int:
        """Where the turn ends whose last word is not before `begin`: at a stop token, or at the limit."""
        return next((place for place in self.ends if begin <= place < limit), limit)


def of_assistant(
    chat: Chat,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] | None,
    text: str,
    places: Sequence[Range | None],
    ends: Sequence[int],
) -> list[tuple[int, Range]]:
    """Each message of the assistant with what it generated, the end of its turn left out.

    `places` are those of the contents. Raises DataError naming a message whose turn cannot be told.
    """
    told = Conversation(chat, messages, tools, text, places, ends)
    for index, place in enumerate(places):
        if place is None and messages[index].get("role") != "assistant":
            raise DataError(
                f"message {index} ({messages[index].get('role')}) has no text as content; it cannot be located"
            )
    spoken = [index for index, message in enumerate(messages) if message.get("role") == "assistant"]
    if not spoken:
        return []
    prompt = told.prompt(spoken[-1])
    begin = prompt.removeprefix(told.until(spoken[-1])) if len(spoken) > 1 else ""
    return [(index, turn(told, index, prompt if index == spoken[-1] else None, begin)) for index in spoken]


def turn(told: Conversation, index: int, prompt: str | None, opening: str) -> Range:
    """What the assistant generated in message `index`. `prompt` is that of its turn, where it is rendered already, and
    `opening` what the template puts before turns of the assistant."""
    message, place, text = told.messages[index], told.places[index], told.text
    besides = any(message.get(name) for name in BESIDES)
    if place is not None and not besides and prompt is None and follows(text[: place[0]], opening):
        return place
    prompt = told.prompt(index) if prompt is None else prompt
    after = text if index == len(told.messages) - 1 else told.until(index + 1)
    if not (text.startswith(prompt) and text.startswith(after) and len(prompt) <= len(after)):
        return earlier(told, index, opening, besides)
    if place is None:
        found = len(prompt), told.end(len(prompt), len(after))
        if not says(text[slice(*found)], message.get("content") or "", besides):
            raise untold(told, index)
        return found
    if not len(prompt) <= place[0] <= place[1] <= len(after):
        raise untold(told, index)
    begin = place[0] if not text[len(prompt) : place[0]].strip() else len(prompt)
    return begin, told.end(place[1], len(after)) if besides else place[1]


def earlier(told: Conversation, index: int, opening: str, besides: bool) -> Range:
    """As `turn`, of a message that the template writes in another way because more is said behind it."""
    place = told.places[index]
    if place is None or besides:
        raise untold(told, index)
    behind = max((before[1] for before in told.places[:index] if before is not None), default=0)
    found = told.text.rfind(opening, behind, place[0]) if opening.strip() else -1
    begin = found + len(opening)
    return place if found < 0 or not told.text[begin : place[0]].strip() else (begin, place[1])


def follows(before: str, opening: str) -> bool:
    """Whether what stands before a content ends with what opens a turn, spaces aside."""
    return before.rstrip().endswith(opening.rstrip())


def says(text: str, content: str, besides: bool) -> bool:
    """Whether a turn is its content but for spaces, or holds it where the message says more."""
    turn, said = "".join(text.split()), "".join(content.split())
    return bool(turn) and (said in turn if besides else said == turn)


def untold(told: Conversation, index: int) -> DataError:
    """The error that names a message whose tokens cannot be told from the template's."""
    return DataError(
        f"the chat template of {told.chat.file} does not write the content of message {index} (assistant) as it is, so "
        "that its tokens cannot be told from the template's"
    )
