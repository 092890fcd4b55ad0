"""Answers to a prompt as token ids: the first is located in its conversation, and others lie where it lies.

To locate what an assistant generates takes several renderings of the whole conversation (`spans`). Of a further answer
to the prompt one is enough: where the template writes the same in front of it and behind it as of the first, it lies
between. And of that text only what follows the prompt's last special token is tokenised, with this token: a tokenizer
cuts text at special tokens before all else, so ids on one side of one do not depend on the other side.

Where any of this does not hold the answer is located by itself, so ids are those of `spans` always.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import tokenizers
from jaxtyping import Int

from jaxalign.errors import DataError
from jaxalign.text.chat import Chat, tokenized_whole
from jaxalign.text.spans import MARKS, covered, spans, turn_ends
from jaxalign.types import Prompt

Tokens = Int[np.ndarray, " _"]
"""Of one answer."""


@dataclass(frozen=True)
class Asked:
    """A prompt as a policy is given it. `cut` is where its last special token begins, None: it has none to cut at.
    `around` is what the template writes before an answer, spaces, and behind it; None: no answer was located, or not
    where it is written."""

    prompt: Prompt
    text: str
    ids: Int[np.ndarray, " p"]
    cut: int | None
    around: tuple[str, str] | None = None


@dataclass(frozen=True)
class Beside:
    """A further answer, which lies where the first one does."""

    to: Asked
    answer: str


def asked(chat: Chat, prompts: Sequence[Prompt]) -> list[Asked | None]:
    """The prompts, tokenised together; None for one that the template or the model's table refuses."""
    texts = [rendered(chat, prompt) for prompt in prompts]
    written = [text for text in texts if text is not None]
    encodings = iter(tokenized_whole(chat.tokenizer, written, chat.file))
    apart = special(chat.tokenizer)
    found = list[Asked | None]()
    for prompt, text in zip(prompts, texts, strict=True):
        encoding = None if text is None else next(encodings)
        if text is None or encoding is None or not fits(chat, encoding.ids):
            found.append(None)
            continue
        cut = last_cut(text, encoding, apart)
        found.append(Asked(prompt, text, np.asarray(encoding.ids, np.int32), cut))
    return found


def rendered(chat: Chat, prompt: Prompt) -> str | None:
    """What the policy reads; None where the template refuses it."""
    try:
        return chat.render(prompt.messages, prompt.tool_list)
    except DataError:
        return None


def fits(chat: Chat, ids: list[int]) -> bool:
    """Whether the model has rows for all of them."""
    return chat.rows is None or max(ids, default=0) < chat.rows


def special(tokenizer: tokenizers.Tokenizer) -> dict[int, str]:
    """Tokens at which text is cut whatever stands around them, by id; none where texts are padded or cut off."""
    if tokenizer.padding or tokenizer.truncation:
        return {}
    added = tokenizer.get_added_tokens_decoder()
    texts = [token.content for token in added.values()]
    return {
        id: token.content
        for id, token in added.items()
        if not (token.normalized or token.single_word or token.lstrip)
        and sum(token.content in other for other in texts) == 1
    }


def last_cut(text: str, encoding: tokenizers.Encoding, apart: dict[int, str]) -> int | None:
    """Where the last of such tokens begins."""
    for id, (begin, end) in zip(reversed(encoding.ids), reversed(encoding.offsets), strict=True):
        if id in apart and text[begin:end] == apart[id]:
            return begin
    return None


def located(chat: Chat, prompt: Prompt, answer: str) -> Tokens:
    """The tokens of the answer that the assistant generates, the end of its turn among them; for a classifier from the
    first of them to the one that it is judged by. DataError where the template does not write the messages as they
    are."""
    found = spans(chat, [*prompt.messages, {"role": "assistant", "content": answer}], prompt.tool_list)
    own = np.flatnonzero(found.generated & (found.message == len(prompt.messages)))
    if chat.classifies and len(own):
        return found.ids[own[0] : len(chat.judged(found.ids.tolist()))]
    return found.ids[own]


def surroundings(chat: Chat, to: Asked, answer: str) -> tuple[str, str] | None:
    """What the template writes between prompt and answer, and behind both; None where it does not write them so that
    there are but spaces between, and for a classifier, which is judged by a token behind them. DataError where it
    refuses them."""
    if chat.classifies:
        return None
    text = chat.marked([*to.prompt.messages, {"role": "assistant", "content": answer}], to.prompt.tool_list, False)
    said = text[len(to.text) :].lstrip()
    plain = answer and answer == answer.strip() and not set(MARKS).intersection(text)
    if not (plain and text.startswith(to.text) and said.startswith(answer)):
        return None
    return text[len(to.text) : len(text) - len(said)], said[len(answer) :]


def tail(to: Asked, answer: str) -> str:
    """The conversation from the prompt's last special token on."""
    assert to.cut is not None
    assert to.around is not None
    return to.text[to.cut :] + to.around[0] + answer + to.around[1]


def beside(chat: Chat, answers: Sequence[Beside]) -> list[Tokens | None]:
    """As `located`, of all together; None where the model lacks a token."""
    texts = [tail(each.to, each.answer) for each in answers]
    encodings = tokenized_whole(chat.untrimmed, texts, chat.file)
    return [
        between(chat, each, text, encoding) if fits(chat, encoding.ids) else None
        for each, text, encoding in zip(answers, texts, encodings, strict=True)
    ]


def between(chat: Chat, at: Beside, text: str, encoding: tokenizers.Encoding) -> Tokens:
    """What the assistant generates in a `tail`."""
    assert at.to.cut is not None
    assert at.to.around is not None
    ids, offsets = encoding.ids, encoding.offsets
    begin = len(at.to.text) - at.to.cut + len(at.to.around[0])
    inside = covered(offsets, begin, begin + len(at.answer))
    wanted = {*range(inside.start, inside.stop), *turn_ends(ids, offsets, inside, text, chat.stop)}
    return np.asarray([ids[place] for place in sorted(wanted)], np.int32)


def learned(chat: Chat, to: Asked, answer: str, ids: Tokens) -> Asked:
    """The prompt with what stands behind its answers, if one whose tokens are known is read so too."""
    if to.cut is None or (around := surroundings(chat, to, answer)) is None:
        return to
    made = replace(to, around=around)
    (found,) = beside(chat, [Beside(made, answer)])
    return made if found is not None and np.array_equal(found, ids) else to
