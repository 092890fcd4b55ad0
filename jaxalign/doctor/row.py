"""One training row, token by token: what it says, whose it is, whether it is scored, and its log-prob."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Int

from jaxalign.contracts.group_size import LONE
from jaxalign.doctor.opened import Opened
from jaxalign.errors import DataError
from jaxalign.text.chat import Chat
from jaxalign.text.spans import spans
from jaxalign.training.logps import token_logps
from jaxalign.training.one_prompt import OnePrompt
from jaxalign.types import Prompt, Rows


@dataclass(frozen=True)
class Token:
    """A token of a row. `branch` is 0 in the prompt and counts the responses, `part` says what it is; `logp` (nats) is
    None if not scored."""

    id: int
    text: str
    role: str
    branch: int
    part: str
    position: int
    logp: float | None


def tokens(opened: Opened) -> list[Token]:
    """The row that trains on the first group, without its padding and without other prompts."""
    _, batch = opened.batch(1, alone(opened))
    score = jax.jit(lambda params, batch: token_logps(opened.model, params, batch.rows, batch.mask))
    table = np.asarray(score(opened.params, batch)).reshape(-1)
    rows = jax.tree.map(lambda leaf: np.asarray(leaf)[0], batch.rows)
    trunk = rows.tokens[(rows.group >= 0) & (rows.branch == 0)].tolist()
    roles = prompt_roles(opened, opened.first_prompt, trunk)
    parts = named(opened)
    logp = {place: float(table[slot]) for slot, place in target_places(rows, batch.mask.shape)}
    return [
        Token(
            id=int(rows.tokens[place]),
            text=text_of(opened, int(rows.tokens[place])),
            role=roles[place] if rows.branch[place] == 0 else answer_role(opened, int(rows.tokens[place])),
            branch=int(rows.branch[place]),
            part=parts(int(rows.branch[place])),
            position=int(rows.position[place]),
            logp=logp.get(place),
        )
        for place in np.flatnonzero(rows.group >= 0).tolist()
    ]


def alone(opened: Opened) -> OnePrompt:
    """How its groups lie where a prompt has a row of its own."""
    return OnePrompt(opened.experiment.fit.rows.groups)


def named(opened: Opened) -> Callable[[int], str]:
    """What the branches of a row are: of a group, its chosen and rejected answer; of several, one may be both."""
    pair = opened.groups.responses > LONE and opened.experiment.fit.rows.groups == 1
    known = ("prompt", "chosen", "rejected") if pair else ("prompt",)
    return lambda branch: known[branch] if branch < len(known) else f"answer {branch}"


def responses(opened: Opened) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """Length and last token of each response of that row."""
    numbers, _ = opened.batch(1, alone(opened))
    numbers = numbers[numbers >= 0]
    taken, lengths = opened.groups.take(numbers), opened.groups.lengths[numbers].reshape(-1)
    ends = taken.tokens.reshape(len(lengths), -1)[np.arange(len(lengths)), lengths - 1]
    if opened.experiment.fit.rows.groups == 1:
        return lengths, ends
    _, first = np.unique(opened.groups.answers[numbers], return_index=True)
    return lengths[first], ends[first]


def target_places(rows: Rows, shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Slot and place in the row of each scored token: behind its source, in the branch that its slot belongs to."""
    for source, target, slot in zip(rows.source, rows.target, rows.slot, strict=True):
        if slot >= 0:
            branch = np.unravel_index(slot, shape)[1] + 1
            follows = (rows.branch == branch) & (rows.position == rows.position[source] + 1) & (rows.tokens == target)
            yield from ((int(slot), int(place)) for place in np.flatnonzero(follows))


def prompt_roles(opened: Opened, prompt: Prompt, trunk: list[int]) -> list[str]:
    """system, user, assistant or template for each token of the prompt."""
    chat = opened.model.chat
    if not isinstance(chat, Chat):
        return ["prompt"] * len(trunk)
    try:
        found = spans(chat, prompt.messages, prompt.tool_list)
    except DataError:  # a template that rewrites what it is given: whose a token is cannot be said
        return ["prompt"] * len(trunk)
    names = ["template" if i < 0 else prompt.messages[i]["role"] for i in found.message.tolist()]
    same = 0
    while same < min(len(trunk), len(names)) and trunk[same] == found.ids[same]:
        same += 1
    return names[:same] + ["template"] * (len(trunk) - same)


def answer_role(opened: Opened, token: int) -> str:
    """What a token of an answer is: of its text, or the end of its turn."""
    return "end of turn" if token in opened.model.chat.stop else "assistant"


def text_of(opened: Opened, token: int) -> str:
    """The token as a Python string without its quotes: spaces, line ends and special tokens can be seen."""
    chat = opened.model.chat
    if not isinstance(chat, Chat):
        return chat.decode([token])
    text = chat.tokenizer.decode([token], skip_special_tokens=False)
    # Half a character has no text of its own; then the vocabulary's name for it.
    return chat.tokenizer.id_to_token(token) or "" if "\ufffd" in text else repr(text)[1:-1]
