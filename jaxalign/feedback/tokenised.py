"""Comparisons as token ids: read and tokenised once, when a run is opened.

An answer is tokenised inside its conversation, as the model's template writes it, and what is scored of it are the
tokens that the assistant generates: its text and the token that ends the turn. The prompt is what a policy is given
when it answers.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxalign.data.comparisons.record import Comparison
from jaxalign.data.groups import Taken
from jaxalign.errors import DataError
from jaxalign.models.model import Conversation
from jaxalign.rollouts.lengths import encoded
from jaxalign.text.chat import Chat
from jaxalign.text.spans import spans
from jaxalign.training.rows import Sizes
from jaxalign.types import Labels, Prompt

SHOWN = 256
"""Prompts kept for a person to see."""


@dataclass(frozen=True)
class PairTable:
    """Pairs in memory, four bytes a token: `ids` are all prompts and answers one behind another, `sizes` the tokens of
    a pair's prompt and of its two answers."""

    ids: Int[np.ndarray, " n"]
    sizes: Int[np.ndarray, "g 3"]
    prompts: Int[np.ndarray, " g"]
    weight: Float[np.ndarray, " g"]
    labels: Labels

    responses: ClassVar[int] = 2

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def prompt_lengths(self) -> Int[np.ndarray, " g"]:
        return self.sizes[:, 0]

    @property
    def lengths(self) -> Int[np.ndarray, "g r"]:
        return self.sizes[:, 1:]

    @cached_property
    def begins(self) -> Int[np.ndarray, "g 3"]:
        """Where each piece begins in `ids`."""
        return np.cumsum(self.sizes, dtype=np.int64).reshape(self.sizes.shape) - self.sizes

    def take(self, numbers: Int[np.ndarray, " b"]) -> Taken:
        sizes, begins = self.sizes[numbers], self.begins[numbers]
        cells = [self._right_padded(begins[:, part], sizes[:, part]) for part in range(3)]
        width = max(cells[1].shape[1], cells[2].shape[1])
        tokens = np.stack([np.pad(each, ((0, 0), (0, width - each.shape[1]))) for each in cells[1:]], axis=1)
        labels = jax.tree.map(lambda column: column[numbers], self.labels)
        return Taken(cells[0], sizes[:, 0], tokens, sizes[:, 1:], self.weight[numbers], labels)

    def _right_padded(self, begins: Int[np.ndarray, " b"], sizes: Int[np.ndarray, " b"]) -> Int[np.ndarray, "b t"]:
        columns = np.arange(sizes.max(initial=1))
        places = np.minimum(begins[:, None] + columns, len(self.ids) - 1)
        return np.where(columns < sizes[:, None], self.ids[places], 0)


@dataclass(frozen=True)
class Tokenised:
    """Comparisons for one model. `left_out` counts by reason those that are not among the pairs, `keys` are hashes of
    the prompts' tokens, and `fingerprint` is a SHA-256 over all that the comparisons say."""

    pairs: PairTable
    fingerprint: str
    keys: frozenset[bytes]
    left_out: Counter[str]
    seen: tuple[Prompt, ...]


def tokenised(comparisons: Iterable[Comparison], chat: Conversation, longest: Sizes, field: str) -> Tokenised:
    """The pairs that have something to learn and are no longer than `longest`: longer ones are left out, never cut,
    since what is behind a cut is what people compared. `field` of the experiment is what errors name.

    Raises DataError naming a comparison that is none of two answers, or that the chat template refuses.
    """
    if not isinstance(chat, Chat):
        raise DataError(f"{field}: the policy is a table: it reads no text")
    digest, left_out = hashlib.sha256(), Counter[str]()
    keys, seen = dict[bytes, int](), dict[bytes, Prompt]()
    ids, sizes, prompts, kept = list[np.ndarray](), list[list[int]](), list[int](), list[Comparison]()
    for each in comparisons:
        digest.update(said(each))
        pair = pieces(each, chat)
        if reason := unfit(each, pair, longest):
            left_out[reason] += 1
            continue
        ids += pair
        sizes.append([len(part) for part in pair])
        key = hashlib.sha256(pair[0].tobytes()).digest()
        prompts.append(keys.setdefault(key, len(keys)))
        if len(seen) < SHOWN:
            seen.setdefault(key, each.prompt)
        kept.append(
            Comparison(each.prompt, (), each.prefer, each.votes, each.place, each.scores, each.margin, each.weight)
        )
    if not kept:
        raise DataError(f"{field}: no pair to train on; {told(left_out)}")
    weight = np.asarray([each.weight for each in kept], np.float32)
    table = PairTable(
        np.concatenate(ids), np.asarray(sizes, np.int32), np.asarray(prompts, np.int32), weight, labels(kept, field)
    )
    return Tokenised(table, digest.hexdigest(), frozenset(keys), left_out, tuple(seen.values()))


def said(each: Comparison) -> bytes:
    """All that a comparison says, wherever it stands."""
    messages = [(message["role"], message["content"]) for message in each.prompt.messages]
    return repr((messages, each.prompt.tools, each.answers, each.prefer, each.votes, each.scores, each.weight)).encode(
        "utf-8", "surrogatepass"
    )


def pieces(each: Comparison, chat: Chat) -> list[Int[np.ndarray, " _"]]:
    """Ids of the prompt and of the two answers. DataError naming the comparison that has not two, or is refused."""
    if len(each.answers) != PairTable.responses:
        raise DataError(f"{each.place}: one answer alone, and a fit on pairs compares two")
    try:
        prompt = np.asarray(encoded(chat, each.prompt), np.int32)
        return [prompt, *(generated(chat, each.prompt, answer) for answer in each.answers)]
    except DataError as error:
        raise DataError(f"{each.place}: {error}") from error


def generated(chat: Chat, prompt: Prompt, answer: str) -> Int[np.ndarray, " t"]:
    """The tokens of the answer that the assistant generates, the end of its turn among them."""
    found = spans(chat, [*prompt.messages, {"role": "assistant", "content": answer}], prompt.tool_list)
    return found.ids[found.generated & (found.message == len(prompt.messages))]


def unfit(each: Comparison, pair: Sequence[Int[np.ndarray, " _"]], longest: Sizes) -> str:
    """Why a pair is left out; empty where it is not."""
    prompt, *answers = map(len, pair)
    if each.answers[0] == each.answers[1]:
        return "twice the same answer"
    if not all(answers):
        return "an answer without a token"
    if prompt > longest.prompt:
        return f"a prompt of more than {longest.prompt} tokens"
    return f"an answer of more than {longest.response} tokens" if max(answers) > longest.response else ""


def told(left_out: Counter[str]) -> str:
    """How many were left out, and why."""
    return f"{left_out.total()} left out" + "".join(f", {count} with {why}" for why, count in left_out.most_common())


def labels(kept: Sequence[Comparison], field: str) -> Labels:
    """Columns of what was said; scores and margins only where all pairs have them. An absent vote is even and decides
    nothing."""
    if len({len(each.votes) for each in kept}) > 1:
        raise DataError(f"{field}: some pairs have votes of more annotators than others")
    votes = np.array([[0.5 if vote is None else vote for vote in each.votes] for each in kept], np.float32)
    scores = [each.scores for each in kept if each.scores is not None]
    margins = [abs(each.margin) for each in kept if each.margin is not None]
    return Labels(
        prefer=np.asarray([each.prefer for each in kept], np.float32),
        win=None,
        score=np.asarray(scores, np.float32) if len(scores) == len(kept) else None,
        votes=votes,
        decided=(votes != 0.5).astype(np.float32),
        margin=np.asarray(margins, np.float32) if len(margins) == len(kept) else None,
    )
