"""Where the judge that trains and the judge that evaluates part: over-optimisation, as a number with an interval.

A policy that is trained against one judge learns what this judge likes, its mistakes included (Gao, Schulman & Hilton
2022, arXiv 2210.10760). A second judge, trained on other data, shares the taste but not the mistakes. What the first
sees more of a gain than the second is what cannot be trusted:

    apart = win rate against the base by the judge that trains − by the judge that evaluates

It says that two judges disagree, not which of them is right.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from jaxalign.evals.context import HeldOut
from jaxalign.evals.intervals import estimated
from jaxalign.evals.win_rate import between
from jaxalign.types import Metrics


@dataclass(frozen=True)
class JudgesApart:
    """Both judges about the evaluated policy against the base.

    Metrics: `judges/win_rate_trainer` and `judges/win_rate_oracle` in [0, 1]; `judges/apart`, their difference, with
    its standard error and 95 % interval over prompts (`intervals`), which both judge alike; `judges/agreement`, the
    share of pairs of different answers on which both are on the same side of 1/2 (draws of either left out; 1 where
    nothing is left).
    """

    needs: ClassVar[tuple[str, ...]] = ("answers", "oracle", "trainer")

    def asks(self, names: Sequence[str], others: Sequence[str]) -> Iterable[tuple[str, ...]]:
        """About the base."""
        del others
        return [(names[-1], names[0])]

    def __call__(self, context: HeldOut) -> Metrics:
        base = context.names[0]
        pair = (context.current, context.responses[base])
        tables = [context.by_trainer().prefer, context.preferences(base).prefer]
        trainer, oracle = (between(table, pair)[:, 0, 1] for table in tables)
        first = pair[0].lengths.shape[1]
        sides = [np.sign(table[:, :first, first:] - 0.5) for table in tables]
        decided = (sides[0] != 0) & (sides[1] != 0)
        agreed = (sides[0] == sides[1])[decided]
        return {
            "judges/win_rate_trainer": float(trainer.mean()),
            "judges/win_rate_oracle": float(oracle.mean()),
            **estimated(trainer - oracle, bounds=(-1.0, 1.0)).metrics("judges/apart"),
            "judges/agreement": float(agreed.mean()) if agreed.size else 1.0,
        }


EXAMPLE = JudgesApart()
