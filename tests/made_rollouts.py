"""Rollouts and preferences made by hand, for tests of oracles, pairings and evals."""

import dataclasses

import numpy as np

from jaxalign.rollouts.shares import given, picked
from jaxalign.types import Preferences, Prompt, Rollouts


def prompt(text: str, name: str = "p0") -> Prompt:
    return Prompt(name, ({"role": "user", "content": text},))


ASKED = ("Why is it?", "A", "Say more.", "What now", "Ho!")
"""20 to 29 tokens with the template: all prefilled 32 wide, with 3 to 12 columns of left padding."""
PROMPTS = tuple(prompt(text, f"p{index}") for index, text in enumerate(ASKED))

CLOSE = {"rtol": 2e-5, "atol": 2e-5}
"""Per token: the same fp32 products in another order, a few hundred roundings of 6e-8 through values of size 1 to 6."""


def assert_same_answers(found: Rollouts, expected: Rollouts) -> None:
    """Everything equal; log-probs up to rounding."""
    for field in dataclasses.fields(Rollouts):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        if field.name == "logps":
            np.testing.assert_allclose(one, other, **CLOSE)
        else:
            np.testing.assert_array_equal(one, other, err_msg=field.name)


def rollouts(texts, asked="Why?", weights=None, tokens=None, lengths=None, logps=None) -> Rollouts:
    """`texts` [b][m]; tokens default to one token a response, numbered along m."""
    count, samples = len(texts), len(texts[0])
    if tokens is None:
        tokens = np.tile(np.arange(samples, dtype=np.int32)[:, None], (count, 1, 1))
    if lengths is None:
        lengths = np.full((count, samples), tokens.shape[2], np.int32)
    asked = [asked] * count if isinstance(asked, str) else asked
    made = given(np.ones((count, 2), np.int32), np.full(count, 2, np.int32), tokens, lengths)
    return dataclasses.replace(
        made,
        prompts=tuple(prompt(text, f"p{index}") for index, text in enumerate(asked)),
        texts=tuple(tuple(row) for row in texts),
        logps=np.full(tokens.shape, -1.0, np.float32) if logps is None else logps,
        weights=made.weights if weights is None else weights,
    )


def permuted(made: Rollouts, order) -> Rollouts:
    """The same rollouts with every prompt's responses in another order."""
    return picked(made, np.asarray(order), "m")


def preferences(prefer) -> Preferences:
    """One annotator's, from P(i beats j) [b m m]."""
    prefer = np.asarray(prefer, np.float32)
    return Preferences(("one",), (1.0,), prefer, prefer[:, None], scores=None)


def random_prefer(rng: np.random.Generator, count: int, samples: int, ties: float = 0.0) -> np.ndarray:
    """Random P(i beats j) in fp32 with exact complements; about a share `ties` of pairs at exactly 1/2."""
    above = rng.uniform(0.5, 1.0, (count, samples, samples)).astype(np.float32)
    above[rng.uniform(size=above.shape) < ties] = 0.5
    above = np.where(rng.uniform(size=above.shape) < 0.5, above, 1 - above)
    upper = np.triu(np.ones((samples, samples), bool), 1)
    return np.where(upper, above, 1 - above.swapaxes(1, 2)) * ~np.eye(samples, dtype=bool) + np.eye(
        samples, dtype=np.float32
    ) * np.float32(0.5)
