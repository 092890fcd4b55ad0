"""What pairings that pick answers by how good they are go by: a number for each answer."""

from typing import Literal

import numpy as np
from jaxtyping import Float

from jaxalign.errors import DataError
from jaxalign.types import Preferences

By = Literal["score", "win"]
"""The oracle's scores, in their unit, or the mean probability to beat the prompt's answers."""


def rated(preferences: Preferences, by: By) -> Float[np.ndarray, "b m"]:
    """Raises DataError for scores where the oracle gives none."""
    if by == "win":
        return preferences.prefer.mean(-1, dtype=np.float64)
    if preferences.scores is None:
        raise DataError(
            "the pairing goes by scores and the oracle gives none: it compares; take feedback.pairing.by 'win'"
        )
    return np.einsum("o,bom->bm", np.asarray(preferences.weights), preferences.scores.astype(np.float64))


def distinct(texts: tuple[str, ...], values: Float[np.ndarray, " m"]) -> list[int]:
    """Numbers of the different texts from the best to the worst; of equal texts the first, equal values by text."""
    firsts = [texts.index(text) for text in sorted(set(texts))]
    return sorted(firsts, key=lambda index: -values[index])
