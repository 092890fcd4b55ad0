"""What the answers look like: length, finish, diversity, repetition, collapse."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from jaxalign.evals.context import HeldOut
from jaxalign.oracles.annotators import repeated_share
from jaxalign.oracles.words import ngrams, words
from jaxalign.types import Metrics


@dataclass(frozen=True)
class Text:
    """Statistics of the evaluated policy's answers, every answer counted alike.

    `text/words` and `text/tokens` a response; `text/finished` share that ended by themselves; `text/distinct_<n>`
    distinct n-grams over n-grams of all answers together (Li et al. 2016, arXiv 1510.03055; falls with the amount of
    text, so compare equal numbers of answers); `text/repeated_ngrams` mean share of 2- to 4-grams an answer repeats;
    `text/duplicates` share of answers equal to an earlier one to the same prompt; `text/empty` share without a word.
    """

    needs: ClassVar[tuple[str, ...]] = ("answers",)

    def __call__(self, context: HeldOut) -> Metrics:
        rollouts = context.current
        spoken = [words(text) for texts in rollouts.texts for text in texts]
        distinct = sum(len(set(texts)) for texts in rollouts.texts)
        metrics = {
            "text/words": float(np.mean([len(sequence) for sequence in spoken])),
            "text/tokens": float(rollouts.lengths.mean()),
            "text/finished": float(rollouts.finished.mean()),
            "text/repeated_ngrams": float(np.mean([repeated_share(sequence) for sequence in spoken])),
            "text/duplicates": 1 - distinct / len(spoken),
            "text/empty": float(np.mean([not sequence for sequence in spoken])),
        }
        for n in (1, 2, 3):
            grams = [gram for sequence in spoken for gram in ngrams(sequence, n)]
            metrics[f"text/distinct_{n}"] = len(set(grams)) / max(len(grams), 1)
        return metrics


EXAMPLE = Text()
