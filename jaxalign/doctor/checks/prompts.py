"""The prompts themselves: empty ones, duplicates, held-out ones that are trained on, special tokens spelled in text."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from jaxalign.doctor.opened import Opened
from jaxalign.doctor.outcome import NotHere, Outcome, judged
from jaxalign.text.chat import Chat
from jaxalign.types import Prompt

NAMED = 5
"""Prompts that a fix names at most."""


@dataclass(frozen=True)
class Prompts:
    """Over the prompts looked at and all held-out ones."""

    def __call__(self, opened: Opened) -> Iterable[Outcome]:
        try:
            chat = opened.chat
        except NotHere as error:
            yield Outcome("prompts", "skipped", {}, str(error))
            return
        prompts, heldout = opened.prompts, opened.heldout
        looked = {"prompts": len(prompts), "of": opened.comparer.size, "heldout": len(heldout)}
        yield self.empty(prompts + heldout, looked)
        yield self.duplicates(prompts)
        yield self.overlap(prompts, heldout)
        yield self.special(chat, prompts + heldout)

    def empty(self, prompts: Sequence[Prompt], looked: dict[str, int]) -> Outcome:
        """Whether every prompt asks something."""
        found = [prompt.id for prompt in prompts if not prompt.text.strip()]
        fix = [f"remove the prompts without text: {listed(found)}"] if found else []
        return judged("empty prompts", {**looked, "empty": len(found)}, fix)

    def duplicates(self, prompts: Sequence[Prompt]) -> Outcome:
        """A prompt twice is trained on twice as much: seldom meant, never fatal."""
        counts = Counter(map(normal, prompts))
        extra = sum(counts.values()) - len(counts)
        again = [prompt.id for prompt in prompts if counts[normal(prompt)] > 1]
        fix = f"the same prompt occurs more than once, and counts as often: {listed(again)}" if extra else ""
        return judged("duplicate prompts", {"duplicates": extra, "share": extra / max(len(prompts), 1)}, [], fix)

    def overlap(self, prompts: Sequence[Prompt], heldout: Sequence[Prompt]) -> Outcome:
        """Whether held-out prompts are among those trained on, white space and case aside."""
        trained = set(map(normal, prompts))
        found = [prompt.id for prompt in heldout if normal(prompt) in trained]
        fix = f"win rates on prompts that were trained on prove nothing; take out of one of the two: {listed(found)}"
        return judged("held-out prompts are trained on", {"heldout_trained_on": len(found)}, [fix] if found else [])

    def special(self, chat: Chat, prompts: Sequence[Prompt]) -> Outcome:
        """A tokenizer reads a special token wherever it is spelled, so text can end a turn or begin another."""
        names = special_tokens(chat)
        found = [prompt.id for prompt in prompts if any(name in text for text in texts(prompt) for name in names)]
        fix = f"text spells special tokens and will be read as such; escape or remove it: {listed(found)}"
        return judged(
            "special tokens in the text of prompts",
            {"special_tokens": len(names), "prompts_with_some": len(found)},
            [fix] if found else [],
        )


def texts(prompt: Prompt) -> Iterator[str]:
    """What each message of a conversation says."""
    yield from (message["content"] for message in prompt.messages)


def normal(prompt: Prompt) -> tuple[tuple[str, str], ...]:
    """What makes two prompts the same: roles and words, whatever their case and spaces."""
    return tuple((message["role"], " ".join(message["content"].casefold().split())) for message in prompt.messages)


def special_tokens(chat: Chat) -> list[str]:
    """How the tokenizer's special tokens are written."""
    added = chat.tokenizer.get_added_tokens_decoder().values()
    return sorted({token.content for token in added if token.special} | set(chat.specials.values()))


def listed(ids: Sequence[str]) -> str:
    """The first `NAMED` ids, and how many more there are."""
    return ", ".join(ids[:NAMED]) + (f" and {len(ids) - NAMED} more" if len(ids) > NAMED else "")


CHECK = Prompts()
