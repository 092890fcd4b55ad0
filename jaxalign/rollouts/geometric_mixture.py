"""Answers of the policy and its anchor together: tokens are drawn from their geometric mixture (`models.geometric`).

Nash-MD (Munos et al. 2023, arXiv 2312.00886) is mirror descent from the mixture and against it,

    mix ∝ π^(1 − share) anchor^share,      π′ ∝ mix exp(step P(· ≻ mix)),      share = step · tau

and that is INPO's loss with tau/eta = share on pairs of the mixture: on i.i.d. pairs of any law μ its minimiser is
last^(1 − r) anchor^r exp(P(· ≻ μ) / eta) with r = tau/eta. IPO on such pairs is IPO-MD (Calandriello et al. 2024, arXiv
2403.08635).

Recorded log-probs are the mixture's own: it is the policy that these answers are of. Where nobody says an anchor (the
doctor) it is the policy itself, and so is the mixture.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import jax
import numpy as np
from jaxtyping import Int

from jaxalign.errors import ConfigError
from jaxalign.mesh.flags import Options
from jaxalign.mesh.program import Program, Work
from jaxalign.models.geometric import Geometric
from jaxalign.models.model import Model
from jaxalign.models.speaker import Speaker
from jaxalign.rollouts.contract import AnchoredRollout, Bounds, Roller, Rollout
from jaxalign.rollouts.enumerate import Enumerate
from jaxalign.rollouts.keys import Keys
from jaxalign.rollouts.sample import Sample
from jaxalign.rollouts.shares import Share
from jaxalign.types import Params, Prompt


@dataclass(frozen=True)
class GeometricMixture:
    """`rollout`, of the geometric mixture of the policy and its anchor. Costs the parameters, the cache and the forward
    passes of both."""

    rollout: Rollout = Sample()
    """what is asked of the mixture"""
    share: float = 0.125
    """of the anchor, in [0, 1]; 0 is the policy. Nash-MD's is tau/eta of the loss"""

    def problems(self) -> Iterable[str]:
        if not 0 <= self.share <= 1:
            yield f"share must lie in [0, 1], got {self.share}"
        if isinstance(self.rollout, AnchoredRollout):
            yield f"rollout is a {type(self.rollout).__name__}, in which the anchor has a part already"

    def bounds(self, model: Speaker) -> Bounds:
        """Those of the rollout."""
        return self.rollout.bounds(model)

    def unpaired(self) -> Iterable[str]:
        """As the rollout says."""
        return (f"rollout.{reason}" for reason in self.rollout.unpaired())

    def on(self, model: Speaker, mesh: jax.sharding.Mesh, options: Options | None, rows: int) -> "MixtureRoller":
        """Ready to roll out; ConfigError for what is no single model."""
        if not isinstance(model, Model):
            raise ConfigError(
                f"rollout GeometricMixture: mixes two policies of a model, and this is a {type(model).__name__}"
            )
        return MixtureRoller(self.rollout.on(Geometric(model, self.share), mesh, options, rows))


class MixtureRoller:
    """Rolls out the mixture of the policy that it is given with `anchor`; None: with itself."""

    def __init__(self, together: Roller, anchor: Params | None = None):
        self._together, self._anchor = together, anchor

    def beside(self, anchor: Params) -> "MixtureRoller":
        """The same, with this anchor; what is compiled is shared."""
        return MixtureRoller(self._together, anchor)

    @property
    def bounds(self) -> Bounds:
        return self._together.bounds

    def check(self, prompts: Iterable[Prompt]) -> None:
        self._together.check(prompts)

    def __call__(
        self, params: Params, prompts: Sequence[Prompt], wanted: Int[np.ndarray, " k"], keys: Keys
    ) -> Iterator[Share]:
        return self._together(self._both(params), prompts, wanted, keys)

    def programs(self, params: Params, prompt: int) -> tuple[Program, ...]:
        """The rollout's, which run both, each with a cache of its own."""
        found = self._together.programs(self._both(params), prompt)
        return tuple(replace(each, work=_twice(each.work)) for each in found)

    def calls(self, prompts: int) -> Mapping[str, int]:
        return self._together.calls(prompts)

    def _both(self, params: Params) -> Params:
        return {"policy": params, "anchor": params if self._anchor is None else self._anchor}


def _twice(work: Work) -> Work:
    return replace(work, passes=2 * work.passes, cached=2 * work.cached, kept=2 * work.kept)


EXAMPLES = (GeometricMixture(Sample(samples=2, max_tokens=4), share=0.25), GeometricMixture(Enumerate(), share=0.25))
