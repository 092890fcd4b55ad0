"""Annotators that need no model: each scores one quality of an answer that can be counted. Higher is better.

An annotator is called as `annotator(prompt, texts)` and returns one finite score a text, in the unit its docstring
states; differences of scores become preferences in `panel.py`. Each is blunt alone and can be gamed alone: the
shortest answer, the answer that hands the question back, the list of key words. So each looks at what an answer says
of its *own* (see `own_count`: nothing copied, nothing twice, no mere key words of the prompt) and gives next to nothing
where that is next to nothing, and a panel weighs qualities against one another that no degenerate answer has at once.
What counting cannot see is whether an answer is true.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from jaxalign.contracts.scope import Site
from jaxalign.oracles.words import (
    content_stems,
    finished_part,
    is_function_word,
    ngrams,
    own_words,
    sentences,
    stem,
    words,
)
from jaxalign.types import Prompt, Rollouts

COPIED_RUN = 6
"""Consecutive words shared with the prompt that count as copied: one more than "is the capital of France"."""

PROSE = 0.2
"""Share of function words below which English is a list of key words or junk (prose has 0.3 to 0.6)."""


@runtime_checkable
class Annotator(Protocol):
    """(prompt, texts) → one score a text; higher is better. Pure, and blind to the order of the texts."""

    @property
    def name(self) -> str: ...

    def __call__(self, prompt: Prompt, texts: tuple[str, ...]) -> Float[np.ndarray, " m"]: ...


@dataclass(frozen=True)
class Scores:
    """What an annotator says of the answers to b prompts, and what it notes of each prompt by name."""

    values: Float[np.ndarray, "b m"]
    notes: dict[str, Float[np.ndarray, " b"]] = field(default_factory=dict)


@runtime_checkable
class BlockAnnotator(Protocol):
    """An annotator that scores many prompts together; every process asks about the same ones, in step."""

    @property
    def name(self) -> str: ...

    def block(self, rollouts: Rollouts) -> Scores: ...


@runtime_checkable
class OpenableAnnotator(Protocol):
    """An annotator that scores inside a scope only. Raises what is wrong with its files when it is opened."""

    @property
    def name(self) -> str: ...

    def open(self, site: Site) -> AbstractContextManager[BlockAnnotator]: ...


@dataclass(frozen=True)
class Brevity:
    """−log2(words / `enough`), 0 at `enough` words or fewer: bits, a doubling of the length costs 1.

    Minus 2 log2(needed / own) where own words are fewer than needed: an answer that says next to nothing is no short
    answer. Needed is a third of `enough`, or `enough` where not one content word of the prompt comes up: set phrases
    would answer any question. Range: from −2 log2(3 `enough`) − the length's logarithm to 0.
    """

    enough: int = 24
    """words an answer may have at no cost, >= 2"""
    name: str = "brevity"
    """what its metrics are called"""

    def problems(self) -> list[str]:
        return [] if self.enough >= 2 else [f"enough must be at least 2 words, got {self.enough}"]

    def __call__(self, prompt: Prompt, texts: tuple[str, ...]) -> Float[np.ndarray, " m"]:
        def score(text: str) -> float:
            length = max(len(words(text)), self.enough)
            needed = self.enough / 3 if on_topic(prompt, text) else self.enough
            own = max(own_count(prompt, text), 1 / 3)
            return -math.log2(length / self.enough) - 2 * max(0.0, math.log2(needed / own))

        return scores(score, texts)


@dataclass(frozen=True)
class Coverage:
    """Σ over sentences of min(taken, new) / asked: the share of the prompt's content words taken up, in [0, 1].

    asked = distinct content words of the prompt (function words out, light stems); taken = those that a sentence's own
    words name for the first time; new = the other content words that the sentence brings in. The minimum wants every
    sentence to say as much as it repeats, so handing the question back, in order, shuffled or with a flourish behind
    it, covers little. Times `prose_share`. A prompt without content words asks nothing in particular: any answer with
    a new word covers it.
    """

    beside: str = ""
    """words of the prompts that are no subject, such as an instruction on length: nobody is asked to take them up"""
    name: str = "coverage"
    """what its metrics are called"""

    def __call__(self, prompt: Prompt, texts: tuple[str, ...]) -> Float[np.ndarray, " m"]:
        asked = set(content_stems(words(prompt.text))) - set(content_stems(words(self.beside)))

        def score(text: str) -> float:
            said: set[str] = set()
            covered = 0
            for sentence in sentences(text):
                fresh = set(content_stems(own_words(sentence, prompt.text, COPIED_RUN))) - said
                covered += min(len(fresh & asked), len(fresh - asked))
                said |= fresh
            share = covered / len(asked) if asked else float(bool(said))
            return share * prose_share(prompt, text)

        return scores(score, texts)


@dataclass(frozen=True)
class Detail:
    """log2(1 + new content words): bits, a doubling of what is said beyond the prompt's words gains 1. Range [0, ∞).

    New content words are distinct stems among the answer's own words that the prompt does not have; times
    `prose_share`.
    """

    name: str = "detail"
    """what its metrics are called"""

    def __call__(self, prompt: Prompt, texts: tuple[str, ...]) -> Float[np.ndarray, " m"]:
        asked = set(content_stems(words(prompt.text)))

        def score(text: str) -> float:
            said = set(content_stems(own_words(text, prompt.text, COPIED_RUN)))
            return math.log2(1 + len(said - asked)) * prose_share(prompt, text)

        return scores(score, texts)


@dataclass(frozen=True)
class NonRepetition:
    """1 − the mean over n = 2, 3, 4 of the share of n-grams that occurred before in the answer, in [0, 1].

    The share is seq-rep-n of Welleck, Kulikov, Roller, Dinan, Cho & Weston 2019 (arXiv 1908.04319), over words. Times
    the share of words that are not copied from the prompt, times min(1, own words / `least`): a text too short to
    repeat itself has not earned the score.
    """

    least: int = 8
    """own words from which the score counts in full, >= 1"""
    name: str = "non_repetition"
    """what its metrics are called"""

    def problems(self) -> list[str]:
        return [] if self.least >= 1 else [f"least must be at least 1 word, got {self.least}"]

    def __call__(self, prompt: Prompt, texts: tuple[str, ...]) -> Float[np.ndarray, " m"]:
        def score(text: str) -> float:
            spoken = words(text)
            own = len(own_words(text, prompt.text, COPIED_RUN)) / max(len(spoken), 1)
            return (1 - repeated_share(spoken)) * own * min(1.0, own_count(prompt, text) / self.least)

        return scores(score, texts)


@dataclass(frozen=True)
class Completeness:
    """1 when the answer ends with a finished sentence or a closed code block, else half the share of words that do.

    In [0, 1]; times min(1, own words / `least`). A full stop of a list marker ("3.") finishes nothing.
    """

    least: int = 4
    """own words from which the score counts in full, >= 1"""
    name: str = "completeness"
    """what its metrics are called"""

    def problems(self) -> list[str]:
        return [] if self.least >= 1 else [f"least must be at least 1 word, got {self.least}"]

    def __call__(self, prompt: Prompt, texts: tuple[str, ...]) -> Float[np.ndarray, " m"]:
        def score(text: str) -> float:
            finished, all_words = len(words(finished_part(text))), len(words(text))
            ended = 1.0 if finished == all_words else 0.5 * finished / all_words
            return ended * min(1.0, own_count(prompt, text) / self.least)

        return scores(score, texts)


@dataclass(frozen=True)
class Plainness:
    """1 − LIX / 100, floored at 0: short sentences of short words. In [0, 1]; children's books 0.75, law 0.4.

    LIX = words a sentence + 100 · share of words longer than six letters (Björnsson 1968). Times
    min(1, own words / `least`).
    """

    least: int = 8
    """own words from which the score counts in full, >= 1"""
    name: str = "plainness"
    """what its metrics are called"""

    def problems(self) -> list[str]:
        return [] if self.least >= 1 else [f"least must be at least 1 word, got {self.least}"]

    def __call__(self, prompt: Prompt, texts: tuple[str, ...]) -> Float[np.ndarray, " m"]:
        def score(text: str) -> float:
            spoken = words(text)
            long = sum(len(word) > 6 for word in spoken) / max(len(spoken), 1)
            lix = len(spoken) / max(len(sentences(text)), 1) + 100 * long
            return max(0.0, 1 - lix / 100) * min(1.0, own_count(prompt, text) / self.least)

        return scores(score, texts)


def scores(score: Callable[[str], float], texts: tuple[str, ...]) -> Float[np.ndarray, " m"]:
    """`score` of every text."""
    return np.array([score(text) for text in texts], np.float64)


def own_count(prompt: Prompt, text: str) -> int:
    """Distinct words outside runs copied from the prompt that are neither the prompt's content words nor numbers."""
    asked = set(content_stems(words(prompt.text)))
    said = set(own_words(text, prompt.text, COPIED_RUN))
    return sum(stem(word) not in asked and not word.isnumeric() for word in said)


def on_topic(prompt: Prompt, text: str) -> bool:
    """Whether the answer has a content word of the prompt, where the prompt has any."""
    asked = set(content_stems(words(prompt.text)))
    return not asked or not asked.isdisjoint(content_stems(words(text)))


def prose_share(prompt: Prompt, text: str) -> float:
    """min(1, share of function words / PROSE): near 0 for lists of key words, 1 for prose.

    1 as well where the prompt itself has fewer than PROSE: other languages and code are not judged by English.
    """
    asked, spoken = words(prompt.text), words(text)
    if function_share(asked) < PROSE:
        return 1.0
    return min(1.0, function_share(spoken) / PROSE)


def function_share(sequence: tuple[str, ...]) -> float:
    """Function words / words; 0 for none."""
    return sum(map(is_function_word, sequence)) / max(len(sequence), 1)


def repeated_share(sequence: tuple[str, ...]) -> float:
    """Mean over n = 2, 3, 4 of 1 − distinct n-grams / n-grams; 0 where there are fewer than n words."""
    grams = [ngrams(sequence, n) for n in (2, 3, 4)]
    return sum(1 - len(set(gram)) / len(gram) for gram in grams if gram) / len(grams)


EXAMPLES = (Brevity(), Coverage(), Detail(), NonRepetition(), Completeness(), Plainness())
