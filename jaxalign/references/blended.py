"""Anchors that are no single policy of the run: their log-probs are made of those of several.

Log-prob sums are enough for that, so such an anchor costs a forward pass a policy an iteration, and the step nothing.
One that is a single policy of another run may be live instead (`LiveGuide`).
What is made may be a distribution over answers only but for a factor of each prompt. Losses that compare the answers to
a prompt with one another do not see the factor; others are refused. Certificates are of anchors that are policies, so
there are none.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from jaxalign.contracts.traced import check_differences
from jaxalign.references.of_run import OfRun
from jaxalign.types import Labels, Reference

MANY = 100
"""Swaps after which an anchor has all the members that it will ever have."""


@runtime_checkable
class Blended(Protocol):
    """A reference whose anchor is blended of policies' log-prob sums."""

    @property
    def outside(self) -> tuple[OfRun, ...]:
        """Policies of other runs: they have the numbers -1, -2, … in their order."""
        ...

    @property
    def scheduled(self) -> bool:
        """Whether it depends on the anchors that the run's swaps say."""
        ...

    @property
    def normalised(self) -> bool:
        """Whether it is a distribution over answers, and not only but for a factor of each prompt."""
        ...

    def members(self, anchors: Sequence[int]) -> tuple[int, ...]:
        """Numbers of the policies that it is made of; `anchors` are those of the schedule, the present one first and
        the base last."""
        ...

    def blend(self, sums: Float[np.ndarray, "k g r"]) -> Float[np.ndarray, "g r"]:
        """The anchor's log-probs (nats) from those of its members, in their order."""
        ...


def blended(
    reference: Reference | None,
    members: Sequence[int],
    score: Callable[[int], Float[np.ndarray, "g r"]],
    shape: tuple[int, int],
) -> Float[np.ndarray, "g r"]:
    """Log-prob sums of g groups of r answers under what `reference` makes of the members, `score` giving those of a
    policy by its number; of a single member, its own."""
    tables = [score(number) for number in members]
    if not isinstance(reference, Blended):
        return np.asarray(tables[0], np.float32)
    sums = np.array(tables, np.float64).reshape(len(tables), *shape)
    return reference.blend(sums).astype(np.float32)


def check_blend(reference: Reference, loss: Any, said: Labels, responses: int) -> None:
    """Raises ConfigError where a blended anchor says too little for `loss`; `said` are labels of two groups of so many
    responses."""
    if isinstance(reference, Blended) and not reference.normalised:
        check_differences(loss, said, responses, type(reference).__name__)


def passes(reference: Reference, needs: Iterable[str], every: bool = False) -> int:
    """Policies at most whose log-probs are stored each iteration; or for `every` role that is needed, of groups that
    are left out of a fit."""
    stored = tuple(needs) if every else reference.stored(needs)
    if not isinstance(reference, Blended) or "anchor" not in stored:
        return len(stored)
    return len(stored) - 1 + len(set(reference.members(range(MANY, -1, -1))))
