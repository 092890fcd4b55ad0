"""A population that picks among k + 1 answers, estimated from samples: universal alignment of language models.

Cai & Zheng 2026 (arXiv 2601.08777) have a game of k + 1 players, whose equilibrium serves a whole population with k
samples of one policy. They describe no language model and no estimator: this one, and COMAL's outer loop on it, are a
proposal of ours. Users are the annotators of another oracle, whatever it is (a panel, learned preference models,
judges): each picks what it likes best among k + 1 answers, those that it likes alike with equal chances (see
`games.picks`). Of m answers to a prompt, drawn from one policy,

    û(y_i) = mean over all sets S of k of the m − 1 others, and over users, of pick(y_i | S)
    P(i ≻ j) = 1/2 + (m − 1)/m · (û(y_i) − û(y_j)) / 2

The law of û. Given y_i it is a U-statistic of m − 1 independent answers: unbiased for u_k(y_i), what the answer gains
over k of the policy's, and its variance lies between k²/(m − 1) ζ_1 and k/(m − 1) ζ_k, ζ_c being the variance of what c
of the k answers tell of the pick (Hoeffding 1948). For one user who ranks strictly, and answers that do not come again,
û = C(R, k) / C(m − 1, k) with R binomial: m − 1 answers, each worse with the policy's mass below y_i. Answers of a
prompt share their others, so that their û depend on one another: they sum to m / (k + 1), whatever is drawn.

Why (m − 1)/m. A regression on pairs meets û(y_i) beside y_j, which is one of its others: a sample in m − 1 of them. The
least squares over pairs of samples then come to m/(m − 1) of u_k's differences, for every k and every population (y_j
beats y_i and k − 1 more as often as each of k exchangeable answers does). The factor takes it back: the minimiser is in
expectation one mirror-descent step along u_k, of half the step size that the same loss has on a matrix game, as with
`population.RankingPopulation`. With k = 1 that is the step on the users' preferences themselves.

Where answers are all that the policy says, with their probabilities, u_k is exact and there is no factor; `nash/gap` is
then max u_k − 1/(k + 1), what the policy's k samples lack of k/(k + 1) against any single answer.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

from jaxalign.contracts.oracle import MeetsPolicy, checked
from jaxalign.contracts.scope import Named, OpenableOracle, Site, opened
from jaxalign.errors import DataError
from jaxalign.games.picks import gains_of_law, gains_of_samples
from jaxalign.oracles.among import among
from jaxalign.oracles.annotators import Brevity, Coverage, Detail
from jaxalign.oracles.panel import Panel, Weighted, probabilities
from jaxalign.rollouts.enumerate import enumerated
from jaxalign.rollouts.shares import picked
from jaxalign.types import Oracle, Preferences, Rollouts

GRID = 2.0**-30
"""What gains are rounded to: sums of products differ by 1e-15 with the order of the answers, and must not show."""


@dataclass(frozen=True)
class KSamples:
    """Oracle: how much more often each answer is picked over k others of the policy, by the annotators of `users`.

    `scores` are û_k of each user. Notes `k_samples/picks_off`: by how much a user's chances to pick one of k + 1
    answers are off 1 in all, a mean over users; 0 unless preferences of single users cycle.
    """

    users: Oracle | OpenableOracle
    """whose annotators are the users, with their weights as shares of the population"""
    k: int = 2
    """samples of the policy that an answer meets, >= 1: as many as will be shown to a user"""

    meets_policy: ClassVar[bool] = True

    def problems(self) -> Iterable[str]:
        if self.k < 1:
            yield f"k must be at least 1, got {self.k}"
        if not isinstance(self.users, Named):
            yield f"users is a {type(self.users).__name__}, which does not say who its annotators are (`names`)"
        if isinstance(self.users, MeetsPolicy) and self.users.meets_policy:
            yield f"users is a {type(self.users).__name__}, which meets the policy itself: it is asked of two answers"

    @property
    def names(self) -> tuple[str, ...]:
        """The users."""
        assert isinstance(self.users, Named)
        return self.users.names

    @property
    def least_answers(self) -> int:
        """One and k others."""
        return self.k + 1

    @contextmanager
    def open(self, site: Site) -> Iterator["KSamples"]:
        """The same, whose users answer."""
        with opened(self.users, site) as users:
            yield replace(self, users=users)

    def __call__(self, rollouts: Rollouts, key: PRNGKeyArray) -> Preferences:
        """Preferences among each prompt's answers.

        Raises:
            DataError: fewer than k + 1 answers to a prompt that are not all there are; names the prompt.
        """
        return self.among(rollouts, np.arange(len(rollouts.prompts)), key)

    def among(self, rollouts: Rollouts, own: Int[np.ndarray, " k"], key: PRNGKeyArray) -> Preferences:
        """The same for the prompts numbered `own`, of those that all processes ask about in step."""
        if not isinstance(self.users, Oracle):
            raise TypeError("users answer inside a scope only: `with oracle.open(site) as judge`")
        mine = picked(rollouts, own)
        said = checked(among(self.users, rollouts, own, key), mine, type(self.users).__name__)
        gains, factor = self._gains(mine, said)
        shares = np.asarray(said.weights)
        each = factor[:, None, None, None] * (gains[..., :, None] - gains[..., None, :]) / 2
        sums = np.einsum("bom,bm->bo", gains, mine.weights.astype(np.float64))
        off = np.abs((self.k + 1) * sums - 1).mean(-1).astype(np.float32)
        return Preferences(
            annotators=said.annotators,
            weights=said.weights,
            prefer=probabilities(np.einsum("o,boij->bij", shares, each)),
            by_annotator=probabilities(each),
            scores=gains.astype(np.float32),
            notes={**said.notes, "k_samples/picks_off": off},
        )

    def _gains(
        self, rollouts: Rollouts, said: Preferences
    ) -> tuple[Float[np.ndarray, "b o m"], Float[np.ndarray, " b"]]:
        """û_k of each answer for each user, and the factor of their differences."""
        count, samples = rollouts.weights.shape
        whole, gains = enumerated(rollouts), np.zeros((count, len(said.annotators), samples))
        for number in range(count):
            # Answers of one text have one gain: a policy that is sure gives few.
            _, first, which = np.unique(rollouts.texts[number], return_index=True, return_inverse=True)
            prefer = said.by_annotator[number][:, first]
            if whole[number]:
                gains[number] = gains_of_law(prefer, rollouts.weights[number], self.k)[:, which]
            elif samples > self.k:
                gains[number] = gains_of_samples(prefer, self.k, first)[:, which]
            else:
                raise DataError(
                    f"prompt {rollouts.prompts[number].id!r} has {samples} answers, and k = {self.k} samples meet "
                    f"another one: {self.least_answers} are needed at least"
                )
        return np.round(gains / GRID) * GRID, np.where(whole, 1.0, (samples - 1) / samples)


def users_of(oracle: Oracle | OpenableOracle | None) -> Oracle | OpenableOracle | None:
    """Who the users are where an oracle is of k samples of them; else itself."""
    return oracle.users if isinstance(oracle, KSamples) else oracle


EXAMPLE = KSamples(
    Panel((Weighted(Brevity(), temperature=0.1), Weighted(Coverage(), 2.0, 0.05), Weighted(Detail(), 1.0, 0.0)))
)
