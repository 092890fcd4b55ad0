"""The panel of annotators: scalar scores → P(i ≻ j), kept apart by annotator and mixed by weight.

    advantage_a(i, j) = tanh((score_a(i) − score_a(j)) / (2 temperature_a)) / 2        Bradley & Terry 1952, minus 1/2
    P_a(i ≻ j)        = 1/2 + advantage_a(i, j)          = sigmoid of the score difference over the temperature
    P(i ≻ j)          = 1/2 + Σ_a weight_a advantage_a(i, j) / Σ_a weight_a

Temperature 0 is a hard vote with ties at 1/2. Every annotator alone is transitive; so is the majority of two with
equal weights and temperatures above 0 on its own scale, since tanh u + tanh v > 0 exactly when u + v > 0. Unequal
weights, and three annotators or more, can cycle: with three near-hard votes, i ≻ j ≻ k, j ≻ k ≻ i and k ≻ i ≻ j
(Condorcet 1785).
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

from jaxalign.contracts.scope import Site
from jaxalign.errors import BrokenContract
from jaxalign.oracles.annotators import Annotator, BlockAnnotator, Brevity, Coverage, OpenableAnnotator, Scores
from jaxalign.rollouts.shares import picked
from jaxalign.types import Preferences, Prompt, Rollouts


@dataclass(frozen=True)
class Weighted:
    """An annotator's place in a panel."""

    annotator: Annotator | OpenableAnnotator | BlockAnnotator
    weight: float = 1.0
    """share of the vote before normalisation, > 0"""
    temperature: float = 1.0
    """score difference, in the annotator's unit, at which it is 73 % sure; 0: always sure"""

    def problems(self) -> Iterable[str]:
        if not 0 < self.weight < np.inf:
            yield f"weight must be positive and finite, got {self.weight}"
        if not 0 <= self.temperature < np.inf:
            yield f"temperature must be at least 0 and finite, got {self.temperature}"


@dataclass(frozen=True)
class Panel:
    """Oracle: the weighted vote of annotators. Needs no key; identical texts are at exactly 1/2.

    Annotators that hold weights score inside the scope of `open` only. What annotators note is noted by their names.
    """

    annotators: tuple[Weighted, ...]

    def problems(self) -> Iterable[str]:
        if not self.annotators:
            yield "annotators must name at least one annotator"
        names = self.names
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"annotators must have different names, got {name!r} {names.count(name)} times: set `name`"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(member.annotator.name for member in self.annotators)

    def __call__(self, rollouts: Rollouts, key: PRNGKeyArray) -> Preferences:
        """Preferences among each prompt's responses.

        Raises:
            BrokenContract: an annotator gave more or fewer scores than texts, or one that is not finite; by its name.
        """
        return self.among(rollouts, np.arange(len(rollouts.prompts)), key)

    def among(self, rollouts: Rollouts, own: Int[np.ndarray, " k"], key: PRNGKeyArray) -> Preferences:
        """The same for the prompts numbered `own`, of those that all processes ask about in step."""
        found = [scored(member.annotator, rollouts, own) for member in self.annotators]
        notes = {
            f"{name}/{note}": counts
            for name, scores in zip(self.names, found, strict=True)
            for note, counts in scores.notes.items()
        }
        return replace(self.preferences(np.stack([scores.values for scores in found], axis=1)), notes=notes)

    @contextmanager
    def open(self, site: Site) -> Iterator["Panel"]:
        """The same panel, whose annotators are all open."""
        with ExitStack() as stack:

            def opened(member: Weighted) -> Weighted:
                if not isinstance(member.annotator, OpenableAnnotator):
                    return member
                return replace(member, annotator=stack.enter_context(member.annotator.open(site)))

            yield replace(self, annotators=tuple(map(opened, self.annotators)))

    def preferences(self, scores: Float[np.ndarray, "b o m"]) -> Preferences:
        """The module's formulas for b prompts' scores."""
        tables = zip(self.annotators, scores.swapaxes(0, 1), strict=True)
        each = np.stack([advantages(table, member.temperature) for member, table in tables], axis=1)
        weights = np.array([member.weight for member in self.annotators], np.float64)
        weights /= weights.sum()
        # annotators score in fp64: what is larger than fp32 holds would become infinite
        largest = np.finfo(np.float32).max
        return Preferences(
            annotators=self.names,
            weights=tuple(weights.tolist()),
            # advantages are mixed and not probabilities: weights that sum to 1 - ε leave a tie at exactly 1/2
            prefer=probabilities((weights[None, :, None, None] * each).sum(1)),
            by_annotator=probabilities(each),
            scores=scores.clip(-largest, largest).astype(np.float32),
        )


def advantages(scores: Float[np.ndarray, "b m"], temperature: float) -> Float[np.ndarray, "b m m"]:
    """P(i ≻ j) − 1/2 for one annotator."""
    with np.errstate(over="ignore", under="ignore"):
        difference = scores[:, :, None] - scores[:, None, :]
        return np.sign(difference) / 2 if temperature == 0 else np.tanh(difference / (2 * temperature)) / 2


def probabilities(advantage: Float[np.ndarray, "*batch m m"]) -> Float[np.ndarray, "*batch m m"]:
    """1/2 + advantage in fp32, rounded on the winner's side so that P(i ≻ j) + P(j ≻ i) is exactly 1."""
    advantage = (advantage - np.swapaxes(advantage, -1, -2)) / 2
    winner = (0.5 + np.abs(advantage)).astype(np.float32).clip(max=np.float32(1))
    return np.where(advantage < 0, 1 - winner, winner)


def scored(
    annotator: Annotator | OpenableAnnotator | BlockAnnotator, rollouts: Rollouts, own: Int[np.ndarray, " k"]
) -> Scores:
    """An annotator's scores of the prompts numbered `own`, checked. One that works on blocks scores all of them."""
    mine, shape = picked(rollouts, own), (len(own), rollouts.lengths.shape[1])
    if isinstance(annotator, BlockAnnotator):
        found = annotator.block(rollouts)
        scores = Scores(found.values[own], {name: counts[own] for name, counts in found.notes.items()})
    elif isinstance(annotator, Annotator):
        pairs = zip(mine.prompts, mine.texts, strict=True)
        each = [_of_texts(annotator, prompt, texts) for prompt, texts in pairs]
        scores = Scores(np.array(each, np.float64).reshape(shape))
    else:
        raise TypeError(f"annotator {annotator.name!r} scores inside a scope only: `with panel.open(site) as judge`")
    for prompt, index in np.argwhere(~np.isfinite(scores.values)):
        raise BrokenContract(
            f"annotator {annotator.name!r} scored response {index} of prompt {mine.prompts[prompt].id!r} "
            f"{scores.values[prompt, index]}"
        )
    return scores


def _of_texts(annotator: Annotator, prompt: Prompt, texts: tuple[str, ...]) -> Float[np.ndarray, " m"]:
    scores = np.asarray(annotator(prompt, texts), np.float64)
    if scores.shape != (len(texts),):
        raise BrokenContract(
            f"annotator {annotator.name!r} must give one score a text, {len(texts)} in all; got shape {scores.shape}"
        )
    return scores


EXAMPLE = Panel((Weighted(Brevity(), temperature=0.1), Weighted(Coverage(), temperature=0.05)))
