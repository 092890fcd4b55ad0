"""How far preferences are from any ranking: cyclic triples and Condorcet winners of the majority relation.

i beats j when P(i ≻ j) > 1/2. A triple of responses is *strict* when none of its three pairs is a tie at exactly
1/2, and *cyclic* when each of the three beats one of the others. Share of cyclic triples = cyclic / strict triples;
triples with a tie (identical texts among them) are neither and counted apart. A Condorcet winner beats all others.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from jaxalign.evals.context import HeldOut
from jaxalign.evals.side_by_side import joint_preferences
from jaxalign.types import Metrics


@dataclass(frozen=True)
class Cycles:
    """`cycle_metrics` of the oracle's preferences among all policies' answers to each held-out prompt."""

    needs: ClassVar[tuple[str, ...]] = ("answers", "oracle")

    def asks(self, names: Sequence[str], others: Sequence[str]) -> Iterable[tuple[str, ...]]:
        """About all of the run together."""
        del others
        return [tuple(names)]

    def __call__(self, context: HeldOut) -> Metrics:
        policies = list(context.responses.values())
        return cycle_metrics(joint_preferences(context.oracle, policies, context.key).prefer)


def cycle_metrics(prefer: Float[np.ndarray, "b m m"]) -> Metrics:
    """Shares over all prompts together; 0 where there is nothing to share.

    `cycles/cyclic_triples` of the strict triples; `cycles/strict_triples` of all triples; `cycles/condorcet_winner`
    share of prompts with one; `cycles/ties` share of pairs.
    """
    prompts, samples = prefer.shape[:2]
    beats = (prefer > 0.5).astype(np.float64)
    cyclic = closed_walks(beats) / 3
    strict = closed_walks(beats + beats.swapaxes(1, 2)) / 6
    pairs = prompts * samples * (samples - 1)
    triples = pairs * (samples - 2) / 6
    winners = (beats.sum(-1) == samples - 1).any(-1)
    return {
        "cycles/cyclic_triples": float(cyclic / strict) if strict else 0.0,
        "cycles/strict_triples": float(strict / triples) if triples else 0.0,
        "cycles/condorcet_winner": float(winners.mean()) if prompts else 0.0,
        "cycles/ties": float(1 - 2 * beats.sum() / pairs) if pairs else 0.0,
    }


def closed_walks(adjacency: Float[np.ndarray, "b m m"]) -> float:
    """Closed walks of three steps in all graphs: 3 a directed triangle, 6 an undirected one."""
    return float(np.einsum("bij,bji->", adjacency @ adjacency, adjacency))


EXAMPLE = Cycles()
