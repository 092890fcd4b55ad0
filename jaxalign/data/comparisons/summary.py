"""What a person wants to know of preference data before training on it.

Intervals are normal ones around a share of pairs, whose variance is summed over prompts: pairs of one prompt are not
independent of each other (Liang & Zeger 1986, for a mean).
"""

import itertools
from array import array
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer

from jaxalign.data.comparisons.digests import digests
from jaxalign.data.comparisons.record import Comparison
from jaxalign.data.comparisons.signal import bag_of_words
from jaxalign.data.comparisons.source import Comparisons
from jaxalign.data.tables.strict import Tally

QUANTILES = {"min": 0.0, "median": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
BINS = {"tie": 0.5, "to 0.6": 0.6, "to 0.7": 0.7, "to 0.8": 0.8, "to 0.9": 0.9, "to 1": 1.0}
"""Upper ends of P(chosen ≻ rejected); the first holds exactly 1/2."""

BLOCK = 256
"""Comparisons measured at once."""

Summary = dict[str, Any]
Measure = Callable[[list[str]], list[int]]
"""Lengths of texts."""


class Columns:
    """Numbers of every comparison that was read, some forty bytes each."""

    def __init__(self, comparisons: Iterable[Comparison], measure: Measure):
        self.votes = Votes()
        names = {"prompt_id": "L", "answers_id": "L", "prefer": "d", "margin": "d", "swapped": "b", "answers": "b"}
        names |= {"turned": "b", "blank": "b", "equal": "b", "prompt": "l", "chosen": "l", "rejected": "l"}
        self._kept = {name: array(code) for name, code in names.items()}
        left = iter(comparisons)
        while block := list(itertools.islice(left, BLOCK)):
            self._add(block, measure)

    def __getitem__(self, name: str) -> np.ndarray:
        return np.frombuffer(self._kept[name], self._kept[name].typecode) if len(self._kept[name]) else np.zeros(0)

    def _add(self, block: list[Comparison], measure: Measure) -> None:
        texts = ["\n".join(message["content"] for message in one.prompt.messages) for one in block]
        lengths = iter(measure([*texts, *(answer for one in block for answer in one.answers)]))
        prompts = list(itertools.islice(lengths, len(block)))
        for one, prompt in zip(block, prompts, strict=True):
            mine, sizes = digests(one), list(itertools.islice(lengths, len(one.answers)))
            values: dict[str, Any] = {
                "prompt_id": mine.prompt,
                "answers_id": mine.answers,
                "turned": mine.turned,
                "prefer": one.prefer,
                "margin": np.nan if one.margin is None else one.margin,
                "swapped": -1 if one.swapped is None else one.swapped,
                "answers": len(one.answers),
                "blank": sum(not answer.strip() for answer in one.answers),
                "equal": len(set(one.answers)) < len(one.answers),
                "prompt": prompt,
                "chosen": sizes[0],
                "rejected": sizes[-1],
            }
            for name, value in values.items():
                self._kept[name].append(value)
            self.votes.add(one)


class Votes:
    """What each annotator said, and how often two of them agreed, of pairs."""

    def __init__(self) -> None:
        self.counts: list[dict[str, int]] = []
        self.alike = self.together = self.unanimous = self.several = 0

    def add(self, comparison: Comparison) -> None:
        """Counts one comparison; which answer a vote is for is told in the order of the file."""
        for index, vote in enumerate(comparison.votes):
            if index == len(self.counts):
                self.counts.append({"first": 0, "second": 0, "tie": 0, "absent": 0})
            self.counts[index][_named(vote, bool(comparison.swapped))] += 1
        said = [_named(vote, False) for vote in comparison.votes if vote is not None]
        if len(said) > 1:
            self.several += 1
            self.unanimous += len(set(said)) == 1
            self.together += len(said) * (len(said) - 1) // 2
            self.alike += sum(one == other for one, other in itertools.combinations(said, 2))


def summarise(
    source: Comparisons, measure: Measure, heldout: Comparisons | None = None, signal: bool = False
) -> Summary:
    """Counts, lengths in the unit of `measure`, labels, biases, repetitions; and what `heldout` shares, if given; and
    with `signal` how often a bag of words tells the preferred answer.

    DataError for bad rows that the source does not allow.
    """
    tally = Tally()
    columns = Columns(source.read(tally), measure)
    pairs = columns["answers"] == 2
    summary: Summary = {
        "rows": {"read": tally.rows, "skipped": tally.skipped, "reasons": tally.shown},
        "comparisons": len(pairs),
        "pairs": int(pairs.sum()),
        "prompts": prompts(columns["prompt_id"]),
        "lengths": {name: quantiles(columns[name]) for name in ("prompt", "chosen")},
        "repeated": repeated(columns),
    }
    if pairs.all():
        summary["lengths"]["rejected"] = quantiles(columns["rejected"])
        summary["labels"] = labels(columns["prefer"])
        summary["bias"] = biases(columns)
    else:
        summary["labels"] = {"desirable": share(columns["prefer"][~pairs] > 0.5, columns["prompt_id"][~pairs])}
    margins = columns["margin"][np.isfinite(columns["margin"])]
    asked = bool(getattr(source, "margin_field", ""))  # then it is told, too, that there are none
    if asked or len(margins):
        summary["margins"] = quantiles(margins)
    if columns.votes.several:
        summary["votes"] = agreement(columns.votes)
    if signal:
        found = bag_of_words(source, len(pairs))
        summary["signal"] = {"bag_of_words": share(found["right"], found["prompt"])}
    if heldout is not None:
        summary["heldout"] = shared(columns, Columns(heldout.read(Tally()), measure))
    return summary


def prompts(ids: Integer[np.ndarray, " b"]) -> Summary:
    """How many different prompts there are, and how many comparisons each has."""
    _, counts = np.unique(ids, return_counts=True)
    return {"distinct": len(counts), "comparisons_each": quantiles(counts)}


def quantiles(values: np.ndarray) -> dict[str, float]:
    """Of the values, and their mean; nothing of none."""
    if not len(values):
        return {}
    found = np.quantile(values, list(QUANTILES.values()), method="higher").astype(np.float64)
    return {**dict(zip(QUANTILES, found.tolist(), strict=True)), "mean": float(values.mean())}


def labels(prefer: Float[np.ndarray, " b"]) -> Summary:
    """How sure the labels are: counts of P(chosen ≻ rejected) by tenths, and how many are exactly 1."""
    upto = np.searchsorted(list(BINS.values()), prefer, side="left")
    counts = np.bincount(upto, minlength=len(BINS)).tolist()
    return {"ties": counts[0], "certain": int((prefer == 1).sum()), "prefer": dict(zip(BINS, counts, strict=True))}


def biases(columns: Columns) -> Summary:
    """How often the first answer of the file wins, and the longer one, where one wins; None where nothing tells."""
    decided, prompt = columns["prefer"] != 0.5, columns["prompt_id"]
    ordered = decided & (columns["swapped"] >= 0)
    unequal = decided & (columns["chosen"] != columns["rejected"])
    longer = columns["chosen"] > columns["rejected"]
    return {
        "first_wins": share(columns["swapped"][ordered] == 0, prompt[ordered]),
        "longer_wins": share(longer[unequal], prompt[unequal]),
    }


def share(
    values: Bool[np.ndarray, " b"] | Float[np.ndarray, " b"], prompt: Integer[np.ndarray, " b"]
) -> dict[str, float] | None:
    """A share of comparisons with its 95 % interval from the variance over prompts, of which a single one has none: all
    from 0 to 1. None of nothing."""
    if not len(values):
        return None
    rate = float(values.mean())
    _, group = np.unique(prompt, return_inverse=True)
    residual = np.bincount(group, values - rate)
    groups = len(residual)
    error = np.sqrt((residual**2).sum() * groups / (groups - 1)) / len(values) if groups > 1 else np.inf
    low, high = max(0.0, rate - 1.96 * error), min(1.0, rate + 1.96 * error)
    return {"share": rate, "ci95_low": float(low), "ci95_high": float(high), "of": len(values)}


def repeated(columns: Columns) -> Summary:
    """Rows that say again what another said, or its contrary; answers that are equal, or say nothing."""
    ids, index, counts = np.unique(columns["answers_id"], return_inverse=True, return_counts=True)
    decided = columns["prefer"] != 0.5
    # one direction for both orders of the same two answers, and one for each verdict on a lone one
    most = columns["answers"].max(initial=0)
    way = np.where(decided, np.where(columns["prefer"] < 0.5 if most == 1 else columns["turned"] == 1, -1, 1), 0)
    ways = [np.bincount(index, way == sign, len(ids)) > 0 for sign in (1, -1)]
    contrary = ways[0] & ways[1] & (most <= 2)
    return {
        "duplicates": int((counts - 1).sum()),
        "contradictory": int(contrary[index].sum()),
        "equal_answers": int(columns["equal"].sum()),
        "blank_answers": int(columns["blank"].sum()),
    }


def agreement(votes: Votes) -> Summary:
    """Of several annotators: what each said, and how often two of them say the same."""
    return {
        "each": votes.counts,
        "voted_on_by_several": votes.several,
        "unanimous": votes.unanimous,
        "two_agree": votes.alike / votes.together,
    }


def shared(train: Columns, heldout: Columns) -> Mapping[str, int]:
    """Comparisons of the one that occur in the other: by prompt, and by prompt and answers."""
    return {
        "comparisons": len(heldout["prompt_id"]),
        "train_prompts_there": int(np.isin(train["prompt_id"], heldout["prompt_id"]).sum()),
        "train_comparisons_there": int(np.isin(train["answers_id"], heldout["answers_id"]).sum()),
    }


def _named(vote: float | None, swapped: bool) -> str:
    if vote is None:
        return "absent"
    return "tie" if vote == 0.5 else "first" if (vote > 0.5) != swapped else "second"
