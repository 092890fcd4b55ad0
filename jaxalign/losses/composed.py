"""A loss of one's own from parts: any score, link and weight that mean something together.

    loss = weight · [ p · link(s(0), s(1)) + (1 − p) · link(s(1), s(0)) ]

Parts are in `losses.parts`. Losses of a name are such compositions (DPO: LogRatio and Logistic; SimPO: TokenMean(Logp)
and Logistic; RePO: TokenMean(Logp) and Hinge; sequence likelihood calibration without a reference: Logp and Hinge), and
so are many that nobody has published, for example the hinge on a Jensen–Shannon score, or EXO by the token.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from jaxtyping import Array, Float

from jaxalign.contracts.extras import extras_of
from jaxalign.losses.parts.compared import compared
from jaxalign.losses.parts.contract import Bounded, Link, Score, Squares, Weight, grows_exponentially
from jaxalign.losses.parts.links import Hinge
from jaxalign.losses.parts.scores import LogRatio
from jaxalign.losses.parts.weights import OnPolicy
from jaxalign.types import GroupLogps


@dataclass(frozen=True)
class Composed:
    """The link of the scores, expected over the label, times the weight."""

    score: Score
    """what an answer is worth"""
    link: Link
    """what becomes of two scores"""
    weight: Weight | None = None
    """how much a pair counts; None: all the same"""

    @property
    def needs(self) -> tuple[str, ...]:
        """The references that the score reads."""
        return self.score.needs

    @property
    def extras(self) -> tuple[str, ...]:
        """What score and weight read besides."""
        return (*extras_of(self.score), *extras_of(self.weight))

    def problems(self) -> Iterable[str]:
        score, link = type(self.score).__name__, type(self.link).__name__
        if self.link.absolute and not self.score.compared:
            yield (
                f"{link} asks whether an answer is likelier than under a reference, and {score} has none: log-probs "
                "are negative whatever the policy; take LogRatio, or a link that reads differences alone"
            )
        if not grows_exponentially(self.score):
            return
        ends = f"{score}, which grows as fast as a ratio of probabilities: fp32 ends there"
        if isinstance(self.link, Squares) and self.link.squares:
            yield f"{link} squares {ends}; take a link that grows linearly, or JensenShannon"
        if self.weight is not None and not (isinstance(self.weight, Bounded) and self.weight.bounded):
            yield f"{type(self.weight).__name__} has no bound and multiplies {ends}; give it one"

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        found = compared(logps, self.score(logps), self.link)
        return found if self.weight is None else self.weight(logps) * found


EXAMPLE = Composed(LogRatio(), Hinge(0.1), OnPolicy(1.0))
