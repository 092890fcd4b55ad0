"""Classes of answers: cross-entropy on what is said of each answer by itself.

    ratings      loss = −mean over answers of log softmax(z)[class of the answer's rating]
    desirable    loss = −(1 − p) log softmax(z)[0] − p log softmax(z)[1]

for unpaired answers that somebody rated, or found good or bad (p is the probability that it is good).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxalign.contracts.scores import GroupScores, agreement
from jaxalign.losses.margins import expected_over_labels


@dataclass(frozen=True)
class Ratings:
    """Negative log-likelihood (nats) of the ratings, of one output a rating: the class is that of the nearest."""

    ratings: tuple[float, ...]
    """what answers are rated, in rising order, as the data say it"""

    needs: ClassVar[tuple[str, ...]] = ()

    def problems(self) -> Iterable[str]:
        if len(self.ratings) < 2 or any(low >= high for low, high in zip(self.ratings, self.ratings[1:], strict=False)):
            yield f"ratings must be at least two and rise, got {list(self.ratings)}"

    def misfits(self, outputs: int, responses: int) -> Iterable[str]:
        if outputs != len(self.ratings):
            yield f"reads an output for each of {len(self.ratings)} ratings, and there are {outputs}"

    def classes(self, scores: GroupScores) -> Int[Array, "b r"]:
        """The class of each answer's rating."""
        known = jnp.asarray(self.ratings, scores.score.dtype)
        return jnp.abs(scores.score[..., None] - known[None, None]).argmin(-1)

    def ranks(self, outputs: Float[Array, "b r o"]) -> Float[Array, "b r"]:
        """How far the expected rating is above the middle of the scale."""
        scale = np.asarray(self.ratings) - (self.ratings[0] + self.ratings[-1]) / 2
        return jax.nn.softmax(outputs) @ jnp.asarray(scale, outputs.dtype)

    def accuracies(self, scores: GroupScores) -> Float[Array, " b"]:
        return (scores.outputs.argmax(-1) == self.classes(scores)).astype(jnp.float32).mean(-1)

    def __call__(self, scores: GroupScores) -> Float[Array, " b"]:
        logps = jax.nn.log_softmax(scores.outputs)
        return -jnp.take_along_axis(logps, self.classes(scores)[..., None], axis=-1)[..., 0].mean(-1)


@dataclass(frozen=True)
class Desirable:
    """Negative log-likelihood (nats) of good or bad, of two outputs a lone answer: bad, good."""

    needs: ClassVar[tuple[str, ...]] = ()

    def misfits(self, outputs: int, responses: int) -> Iterable[str]:
        if outputs != 2:
            yield f"reads two outputs, bad and good, and there are {outputs}"
        if responses != 1:
            yield f"reads lone answers, and groups are of {responses}"

    def log_odds(self, outputs: Float[Array, "b r o"]) -> Float[Array, " b"]:
        return outputs[:, 0, 1] - outputs[:, 0, 0]

    def ranks(self, outputs: Float[Array, "b r o"]) -> Float[Array, "b r"]:
        return outputs[..., 1] - outputs[..., 0]

    def accuracies(self, scores: GroupScores) -> Float[Array, " b"]:
        return agreement(self.log_odds(scores.outputs), scores.prefer)

    def __call__(self, scores: GroupScores) -> Float[Array, " b"]:
        odds = self.log_odds(scores.outputs)
        return expected_over_labels(scores.prefer, -jax.nn.log_sigmoid(odds), -jax.nn.log_sigmoid(-odds))


EXAMPLES = (Ratings((1.0, 2.0, 3.0)), Desirable())
