"""A weighted sum of losses: how terms are added to a loss.

    loss = Σ_i weights_i · losses_i

DPO with the likelihood of the chosen answer (Pang et al. 2024, iterative RPO, arXiv 2404.19733, eq. 1) is
SumOf((DPO(0.1), Likelihood()), (1.0, 1.0)); mixed preference optimisation (Wang et al. 2024, MPO, arXiv 2411.10442) is
SumOf((DPO(0.1), BCOPairs(0.1), Likelihood()), (0.8, 0.2, 1.0)).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from jaxtyping import Array, Float

from jaxalign.contracts.extras import extras_of
from jaxalign.contracts.group_size import responses_of
from jaxalign.contracts.pairing import Third, third_of
from jaxalign.contracts.remembering import Remembers
from jaxalign.contracts.votes import annotators_of
from jaxalign.losses.dpo import DPO
from jaxalign.losses.likelihood import Likelihood
from jaxalign.types import GroupLogps, Loss


@dataclass(frozen=True)
class SumOf:
    """Σ weight · loss, group by group."""

    losses: tuple[Loss, ...]
    """what is added up"""
    weights: tuple[float, ...]
    """a factor for each, > 0"""

    @property
    def needs(self) -> tuple[str, ...]:
        """The references that any of them reads."""
        return tuple(dict.fromkeys(role for loss in self.losses for role in loss.needs))

    @property
    def extras(self) -> tuple[str, ...]:
        """What any of them reads besides."""
        return tuple(dict.fromkeys(name for loss in self.losses for name in extras_of(loss)))

    @property
    def responses(self) -> int | None:
        """Those of a group that all of them read; None: any number."""
        return next((count for count in map(responses_of, self.losses) if count is not None), None)

    @property
    def third(self) -> Third | None:
        """Whose the third answer is that any of them reads."""
        return next((third for third in map(third_of, self.losses) if third is not None), None)

    @property
    def annotators(self) -> int:
        """Those whose votes any of them reads; 1 where none does."""
        return max(map(annotators_of, self.losses), default=1)

    def problems(self) -> Iterable[str]:
        if len(self.losses) != len(self.weights) or not self.losses:
            yield f"there are {len(self.losses)} losses and {len(self.weights)} weights; each loss has one"
        yield from apart("number of answers", self.losses, responses_of, None)
        yield from apart("third answer", self.losses, third_of, None)
        yield from apart("number of annotators", self.losses, annotators_of, 1)
        if any(not weight > 0 for weight in self.weights):
            yield f"weights must be positive, got {list(self.weights)}"
        for loss in self.losses:
            if isinstance(loss, Remembers):
                yield f"{type(loss).__name__} remembers from step to step, and a sum has no memory: train by it alone"

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        first, *rest = (weight * loss(logps) for loss, weight in zip(self.losses, self.weights, strict=True))
        return sum(rest, start=first)


def apart(what: str, losses: Iterable[Loss], of: Callable[[Loss], object], free: object) -> Iterable[str]:
    """Says so when losses read different `what`; one that reads `free` goes with all."""
    read = [(type(loss).__name__, value) for loss in losses if (value := of(loss)) != free]
    if len({value for _, value in read}) > 1:
        yield f"terms of a sum must read the same {what}: {', '.join(f'{name} reads {value}' for name, value in read)}"


EXAMPLE = SumOf((DPO(beta=0.1), Likelihood()), (1.0, 0.5))
