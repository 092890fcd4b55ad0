"""An ensemble of annotators that score alike, such as reward models of several seeds: their mean, less their doubt.

    score = mean over members − caution · standard deviation over members

Coste et al. 2024, "Reward model ensembles help mitigate overoptimization" (arXiv 2310.02743), §4: caution 0 is the
mean, above 0 it is uncertainty-weighted (with the deviation in place of the variance, so that `caution` has no unit).
Where a policy has found what one member likes and nobody else does, members part, and caution costs it. Scores are
averaged as they are, so members should speak in one unit; for members that do not, or that compare, see `mixture`.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np

from jaxalign.contracts.scope import Site
from jaxalign.oracles.annotators import Annotator, BlockAnnotator, Brevity, OpenableAnnotator, Scores
from jaxalign.oracles.panel import scored
from jaxalign.types import Rollouts


@dataclass(frozen=True)
class Ensemble:
    """Annotator: several that hold weights or not, heard together inside the scope of `open`.

    Notes `spread`: the standard deviation over members, in their unit, meaned over a prompt's answers; and what members
    note, by their names.
    """

    members: tuple[Annotator | OpenableAnnotator, ...]
    caution: float = 0.0
    """standard deviations over members that are taken off the mean, >= 0"""
    name: str = "ensemble"
    """how metrics call it"""

    def problems(self) -> Iterable[str]:
        if len(self.members) < 2:
            yield "members must be at least two annotators"
        if not 0 <= self.caution < np.inf:
            yield f"caution must be at least 0 and finite, got {self.caution}"
        names = [member.name for member in self.members]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"members must have different names, got {name!r} {names.count(name)} times: set `name`"

    @contextmanager
    def open(self, site: Site) -> Iterator["OpenEnsemble"]:
        """Its members, all open."""
        with ExitStack() as stack:
            members = [
                stack.enter_context(member.open(site)) if isinstance(member, OpenableAnnotator) else member
                for member in self.members
            ]
            yield OpenEnsemble(self, tuple(members))


@dataclass(frozen=True, eq=False)
class OpenEnsemble:
    """An ensemble whose members are open."""

    ensemble: Ensemble
    members: tuple[Annotator | BlockAnnotator, ...]

    @property
    def name(self) -> str:
        return self.ensemble.name

    def block(self, rollouts: Rollouts) -> Scores:
        """Scores of the answers. Raises what members raise, by their names."""
        found = [scored(member, rollouts, np.arange(len(rollouts.prompts))) for member in self.members]
        tables = np.stack([each.values for each in found]).astype(np.float64)
        spread = tables.std(0)
        noted = {
            f"{member.name}/{note}": counts
            for member, each in zip(self.members, found, strict=True)
            for note, counts in each.notes.items()
        }
        return Scores(tables.mean(0) - self.ensemble.caution * spread, {**noted, "spread": spread.mean(1)})


EXAMPLE = Ensemble((Brevity(), Brevity(enough=12, name="terse")), caution=0.5)
