"""One annotator gives the labels, the others' scores are kept as rewards: what MODPO is trained on, of a panel.

    P(i ≻ j) = P_label(i ≻ j),        S(y) = Σ over the others of weight · scale · score(y) / Σ of their weights

Labels and win rates are those of the one annotator; what losses read as scores (`Labels.score`) are S, which a panel's
own scores are not: they have the label's annotator among them.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int, PRNGKeyArray

from jaxalign.contracts.scope import Named, OpenableOracle, Site, opened
from jaxalign.errors import DataError
from jaxalign.oracles.among import among
from jaxalign.oracles.annotators import Brevity, Coverage
from jaxalign.oracles.panel import Panel, Weighted
from jaxalign.types import Oracle, Preferences, Rollouts


@dataclass(frozen=True)
class LabelAndRewards:
    """Oracle of the single annotator `label`, which scores what the others of `oracle` do."""

    oracle: Oracle | OpenableOracle
    """whose annotators are told apart; all of them score"""
    label: str
    """name of the annotator whose preferences are the labels"""
    scale: float = 1.0
    """nats of reward a unit of the others' mean score"""

    def problems(self) -> Iterable[str]:
        if not isinstance(self.oracle, Named):
            yield f"oracle {type(self.oracle).__name__} must say the `names` of its annotators"
        elif self.label not in self.oracle.names:
            yield f"label {self.label!r} is none of {', '.join(self.oracle.names)}"
        elif len(self.oracle.names) < 2:
            yield "there is no annotator beside the label's, whose scores would be kept"

    @property
    def names(self) -> tuple[str, ...]:
        """The label's annotator."""
        return (self.label,)

    @contextmanager
    def open(self, site: Site) -> Iterator["LabelAndRewards"]:
        """The same, its oracle open."""
        with opened(self.oracle, site) as judge:
            yield replace(self, oracle=judge)

    def __call__(self, rollouts: Rollouts, key: PRNGKeyArray) -> Preferences:
        """Preferences among each prompt's responses. Raises what the oracle raises, DataError where it scores nothing
        or the others weigh nothing."""
        return self.among(rollouts, np.arange(len(rollouts.prompts)), key)

    def among(self, rollouts: Rollouts, own: Int[np.ndarray, " k"], key: PRNGKeyArray) -> Preferences:
        """The same for the prompts numbered `own`, of those that all processes ask about in step."""
        found = among(self.oracle, rollouts, own, key)
        if found.scores is None:
            raise DataError(f"oracle {type(self.oracle).__name__} compares and scores nothing: there are no rewards")
        index = found.annotators.index(self.label)
        shares = np.array(found.weights, np.float64)
        shares[index] = 0.0
        if not shares.sum() > 0:
            raise DataError(f"the annotators beside {self.label!r} weigh nothing: there are no rewards")
        rewards = self.scale * np.einsum("o,bom->bm", shares / shares.sum(), found.scores)
        alone = found.by_annotator[:, index]
        return Preferences(
            (self.label,), (1.0,), alone, alone[:, None], rewards[:, None].astype(np.float32), found.notes
        )


EXAMPLE = LabelAndRewards(
    Panel((Weighted(Brevity(), temperature=0.1), Weighted(Coverage(), temperature=0.05))), label="coverage"
)
