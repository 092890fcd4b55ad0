"""Words, stems, n-grams and sentences of plain text: what programmatic annotators and text statistics count.

Words are runs of letters and digits in any script (an inner apostrophe joins; an ideograph or kana stands alone),
after Unicode compatibility normalisation and case folding. Function words and suffixes are English.
"""

import functools
import itertools
import re
import unicodedata
from collections.abc import Sequence

_IDEOGRAPH = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_IDEOGRAPH}]|(?:(?![{_IDEOGRAPH}])[^\W_])+(?:['’](?:(?![{_IDEOGRAPH}])[^\W_])+)*")

FUNCTION_WORDS = frozenset(
    """
    a about above after again against all also although am an and another any are around as at away be because been
    before being below between both but by ca can cannot could did do does doing done down during each either else
    enough etc even ever every few for from further get gets give given go got had has have having he her here hers
    herself him himself his how however i if in instead into is it its itself just let like make many may me might
    mine more most much must my myself neither no nor not now of off often on once one only onto or other others
    otherwise our ours ourselves out over own per perhaps please quite rather really same shall she should since so
    some such than that the their theirs them themselves then there therefore these they this those though through
    thus to together too toward towards under until up upon us very was we were what whatever when where whether
    which while who whom whose why will with within without wo would yet you your yours yourself yourselves
    """.split()  # noqa: SIM905
)

_SUFFIXES = ("ations", "ation", "ingly", "edly", "ings", "ing", "ies", "ied", "ers", "er", "ed", "ly", "es", "s")

_CLOSERS = "\"'”’»)]}*_`"
_STOPS = ".!?…。！？"
_SENTENCE_END = re.compile(rf"[{_STOPS}][{re.escape(_CLOSERS)}]*(?=\s|$)|[。！？]")
_LINE_END = re.compile(r"\n")
_LIST_MARKER = re.compile(r"\s*(?:[-*+•#>]|\d{1,3}|[A-Za-z])[.)]?")


@functools.lru_cache(maxsize=4096)
def words(text: str) -> tuple[str, ...]:
    """The words of `text`, case-folded, in order."""
    folded = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    return tuple(_WORD.findall(folded))


@functools.lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """`word` without a possessive, a common English suffix, a doubled last consonant and a final e.

    At least three letters stay. Light on purpose: it joins "plan", "plans" and "planning", not "plane".
    """
    word = word.removesuffix("'s")
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3 and not word.endswith("ss"):
            word = word.removesuffix(suffix) + ("y" if suffix in ("ies", "ied") else "")
            break
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "aeiouls":
        word = word[:-1]
    return word.removesuffix("e") if len(word) > 3 else word


def content_stems(sequence: Sequence[str]) -> tuple[str, ...]:
    """Stems of the words that are not function words, in order, repeats kept."""
    return tuple(stem(word) for word in sequence if not is_function_word(word))


def is_function_word(word: str) -> bool:
    """Whether `word` is an English word of grammar rather than content, contractions included."""
    return word.removesuffix("n't").split("'")[0] in FUNCTION_WORDS


def ngrams(sequence: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """All n consecutive words, in order; empty where there are fewer than n."""
    return list(zip(*(sequence[start:] for start in range(n)), strict=False))


@functools.lru_cache(maxsize=1024)
def _runs(source: str, run: int) -> frozenset[tuple[str, ...]]:
    return frozenset(ngrams(words(source), run))


def own_words(text: str, source: str, run: int) -> tuple[str, ...]:
    """The words of `text` that are not in a run of `run` words copied from `source` (all of it, if it is shorter)."""
    spoken, run = words(text), max(1, min(run, len(words(source))))
    copied = _runs(source, run)
    keep = [True] * len(spoken)
    for start, gram in enumerate(ngrams(spoken, run)):
        if gram in copied:
            keep[start : start + run] = [False] * run
    return tuple(word for word, own in zip(spoken, keep, strict=True) if own)


def finished_part(text: str) -> str:
    """`text` up to its last finished sentence or closed code block; empty when nothing is finished.

    A full stop that only belongs to a list marker ("2.") finishes nothing, nor does anything inside an open code
    fence.
    """
    fences = [match.end() for match in re.finditer("```", text)]
    if len(fences) % 2:
        return finished_part(text[: fences[-1] - 3])
    ends = reversed([match.end() for match in _SENTENCE_END.finditer(text)])
    last = next((end for end in ends if not _LIST_MARKER.fullmatch(text, text.rfind("\n", 0, end) + 1, end)), 0)
    return text[: max([last, *fences[1::2]])]


def sentences(text: str) -> tuple[str, ...]:
    """Parts of `text` that end with a sentence or a line and have words."""
    ends = (match.end() for pattern in (_SENTENCE_END, _LINE_END) for match in pattern.finditer(text))
    parts = (text[start:end] for start, end in itertools.pairwise(sorted({0, *ends, len(text)})))
    return tuple(part for part in parts if words(part))
