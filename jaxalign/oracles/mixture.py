"""A mixture of oracles of any kind: each says a share of what is said.

    P(i ≻ j) = Σ_k weight_k P_k(i ≻ j) / Σ_k weight_k

The oracle of COMAL's second version is one (Liu et al. 2024, arXiv 2410.23223, §5.1, eq. 4): ½ σ(Δr₁) + ½ σ(Δr₂) of two
reward models, two members of weight 1.

When it cannot cycle. ½ σ(u) + ½ σ(v) > ½ exactly when u + v > 0: the majority of two Bradley–Terry members of *equal*
weight is the order of the sum r₁/T₁ + r₂/T₂ of their scores over their temperatures, although the probabilities are
those of no Bradley–Terry model. So some answer beats all others, and the Nash policy of the unregularised game is
deterministic. Unequal weights break this (of 3,000 random panels over six answers 142 cycled at .6/.4, none at .5/.5),
and so do a third member or one that is no Bradley–Terry model, such as a general preference model or a language model.
To exercise learning from preferences that cycle, take one of these; `cycles/cyclic_triples` says what came of it.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import jax
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

from jaxalign.contracts.oracle import checked
from jaxalign.contracts.scope import OpenableOracle, Site, opened
from jaxalign.oracles.among import among
from jaxalign.oracles.annotators import Brevity, Coverage
from jaxalign.oracles.panel import Panel, Weighted, probabilities
from jaxalign.rollouts.shares import picked
from jaxalign.types import Oracle, Preferences, Rollouts


@dataclass(frozen=True)
class Member:
    """An oracle's place in a mixture."""

    oracle: Oracle | OpenableOracle
    weight: float = 1.0
    """share of what is said, before normalisation, > 0"""
    name: str = ""
    """what its metrics are called; empty: as its class"""

    def problems(self) -> Iterable[str]:
        if not 0 < self.weight < np.inf:
            yield f"weight must be positive and finite, got {self.weight}"

    @property
    def called(self) -> str:
        """Its name among the annotators: that of its class where none is given."""
        return self.name or type(self.oracle).__name__

    @property
    def judge(self) -> Oracle:
        """The oracle, to be asked. Raises TypeError for one that is not open and must be."""
        if not isinstance(self.oracle, Oracle):
            raise TypeError(f"oracle {self.called!r} answers inside a scope only: `with mixture.open(site) as judge`")
        return self.oracle


@dataclass(frozen=True)
class Mixture:
    """Oracle: the weighted mean of others, each of them one annotator, whoever it consists of.

    Scores are the members' own, those of its annotators by their weights, and there are none unless all members score.
    What a member notes is noted by its name. Members that draw have keys of their own.
    """

    members: tuple[Member, ...]

    def problems(self) -> Iterable[str]:
        if not self.members:
            yield "members must name at least one oracle"
        for name in sorted({name for name in self.names if self.names.count(name) > 1}):
            yield f"members must have different names, got {name!r} {self.names.count(name)} times: set `name`"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(member.called for member in self.members)

    @contextmanager
    def open(self, site: Site) -> Iterator["Mixture"]:
        """The same mixture, whose members are all open."""
        with ExitStack() as stack:
            yield replace(
                self,
                members=tuple(
                    replace(member, oracle=stack.enter_context(opened(member.oracle, site)), name=member.called)
                    for member in self.members
                ),
            )

    def __call__(self, rollouts: Rollouts, key: PRNGKeyArray) -> Preferences:
        """Preferences among each prompt's responses. Raises what members raise, by their names."""
        return self.among(rollouts, np.arange(len(rollouts.prompts)), key)

    def among(self, rollouts: Rollouts, own: Int[np.ndarray, " k"], key: PRNGKeyArray) -> Preferences:
        """The same for the prompts numbered `own`, of those that all processes ask about in step."""
        mine = picked(rollouts, own)
        found = [
            checked(among(member.judge, rollouts, own, jax.random.fold_in(key, index)), mine, member.called)
            for index, member in enumerate(self.members)
        ]
        weights = np.array([member.weight for member in self.members], np.float64)
        weights /= weights.sum()
        each = np.stack([preferences.prefer for preferences in found], axis=1)
        scores = [score for score in map(mean_scores, found) if score is not None]
        return Preferences(
            annotators=self.names,
            weights=tuple(weights.tolist()),
            prefer=probabilities((weights[None, :, None, None] * (each.astype(np.float64) - 0.5)).sum(1)),
            by_annotator=each,
            scores=np.stack(scores, axis=1) if len(scores) == len(found) else None,
            notes={
                f"{name}/{note}": counts
                for name, preferences in zip(self.names, found, strict=True)
                for note, counts in preferences.notes.items()
            },
        )


def mean_scores(found: Preferences) -> Float[np.ndarray, "b m"] | None:
    """An oracle's scores, by the weights of its annotators."""
    if found.scores is None:
        return None
    return np.einsum("o,bom->bm", found.weights, found.scores.astype(np.float64)).astype(np.float32)


EXAMPLE = Mixture(
    (
        Member(Panel((Weighted(Brevity(), temperature=0.1),)), 0.6, "brief"),
        Member(Panel((Weighted(Coverage(), temperature=0.05),)), 0.4, "to_the_point"),
    )
)
