"""What pair losses are made of: a score of each answer, a link that makes a loss of two scores, a weight of the pair.

    loss = weight · [ p · link(s(0), s(1)) + (1 − p) · link(s(1), s(0)) ]

p is the probability that answer 0 is the better one. Losses of `jaxalign.losses` with a name of their own are made of
these parts; `Composed` takes any that mean something together.
"""

from typing import Protocol, runtime_checkable

from jaxtyping import Array, Float

from jaxalign.types import GroupLogps


@runtime_checkable
class Score(Protocol):
    """GroupLogps → what each answer is worth, nats."""

    @property
    def compared(self) -> bool:
        """Whether 0 says "as likely as under the reference"; without a reference only differences say anything."""
        ...

    @property
    def needs(self) -> tuple[str, ...]:
        """The references that it reads."""
        ...

    def __call__(self, logps: GroupLogps) -> Float[Array, "b r"]: ...


@runtime_checkable
class Link(Protocol):
    """(score of the better answer, of the worse one) → loss."""

    @property
    def absolute(self) -> bool:
        """Whether it reads each score by itself and not their difference alone."""
        ...

    def __call__(self, better: Float[Array, " b"], worse: Float[Array, " b"]) -> Float[Array, " b"]: ...


@runtime_checkable
class Weight(Protocol):
    """GroupLogps → how much each pair counts, >= 0; no gradient flows through it."""

    @property
    def extras(self) -> tuple[str, ...]:
        """What it reads beyond log-probs (see `contracts.extras`)."""
        ...

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]: ...


# What a part may say of itself besides: how fast it grows.


@runtime_checkable
class Exponential(Protocol):
    """A score that may grow as fast as a ratio of probabilities does: fp32 holds it, and not its square."""

    @property
    def exponential(self) -> bool: ...


@runtime_checkable
class Squares(Protocol):
    """A link that grows as fast as the square of what it reads."""

    @property
    def squares(self) -> bool: ...


@runtime_checkable
class Bounded(Protocol):
    """A weight that says whether there is a bound that no pair's exceeds."""

    @property
    def bounded(self) -> bool: ...


def grows_exponentially(score: Score) -> bool:
    """Whether it says so of itself."""
    return isinstance(score, Exponential) and score.exponential
