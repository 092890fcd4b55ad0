"""The evaluations of one fit on pairs that it does not see: which step was best, and whether it still improves."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from jaxalign.training.step import Fit


@dataclass
class Evaluations:
    """Held-out losses by the steps of a fit of `total` steps, in their order; with `start`, that before the first too.

    A checkpoint carries them, so that a fit that is continued knows what it has seen.
    """

    spec: Fit
    total: int
    losses: dict[int, float] = field(default_factory=dict)
    start: bool = False

    def due(self, step: int) -> bool:
        """Whether the state after `step` steps is to be evaluated and is not yet. The last one is, if any is."""
        every = self.spec.evaluate_every
        if every is None or step in self.losses or (step == 0 and not self.start):
            return False
        return step % every == 0 or step == self.total

    def best(self, until: int | None = None) -> int | None:
        """The step of the least loss up to step `until` (None: all), the first of equal ones; None where none is."""
        seen = [step for step in self.losses if until is None or step <= until]
        return min(seen, key=self.losses.__getitem__, default=None)

    @property
    def over(self) -> bool:
        """Whether so many evaluations in a row were no better than the best one that the fit ends."""
        best, patience = self.best(), self.spec.patience
        if best is None or patience is None:
            return False
        return sum(step > best for step in self.losses) >= patience

    def kept(self, checkpoints: Iterable[int]) -> set[int]:
        """The steps whose states must stay: the best one, and what was the best one at each checkpoint, from which the
        fit may have to go on."""
        wanted = {self.best(), *(self.best(step) for step in checkpoints)}
        return {step for step in wanted if step is not None}
