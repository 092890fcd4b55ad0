"""Win rates of k samples of a policy among a population: a user is shown k answers of ours and l of an opponent's, and
picks the one that it likes best.

    WR(k, l) = mean over prompts and users of P(the pick is ours)

Cai & Zheng 2026 (arXiv 2601.08777): there is a policy whose k samples win at least k/(k + 1) against any single answer,
and no method does better in general; against l answers it wins (k + 1 − l)/(k + 1) at least; k/(k + l) is the most.
That a user picks, and not a reward model for it, is the point: selector and judge are one.

Users are the annotators of the oracle, with its weights, and pick as in `games.picks`. Of m answers to a prompt all
sets of k count, and all sets of l of the opponent's: unbiased for samples, since answers of two policies are
independent. Answers that are listed with their probabilities are drawn from these.

An answer that is shown k times is no choice: `distinct` tells how many of k answers are different ones.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int

from jaxalign.evals.context import HeldOut, opposing
from jaxalign.evals.exact_nash import solved
from jaxalign.evals.intervals import estimated
from jaxalign.evals.robust_win_rate import worst
from jaxalign.games.picks import SHARES, gains_of_sets, kept, over_draws, over_sets
from jaxalign.rollouts.enumerate import enumerated
from jaxalign.types import Metrics, Preferences, Rollouts

Rates = Mapping[str, Float[np.ndarray, "k l b"]]
"""WR(k, l) on every prompt, by opponent; NaN where there are fewer answers than are shown."""

Laws = Float[np.ndarray, "b m"]
"""Probabilities of all answers to each prompt."""

SETS = 5000
"""Of answers to a prompt that are tried at most, for the one that wins most often."""


@dataclass(frozen=True)
class KSampleWinRate:
    """k samples of the evaluated policy against l of the policies before it, and of other runs (`evaluation.others`).

    Metrics, in [0, 1], for each k up to the number of answers: `k_samples/<k>/vs_<name>`; `k_samples/<k>/worst`, the
    least of these and of what each user likes best among an opponent's answers, with its 95 % interval, which is of
    this pool alone (`evals.pool` is one for several runs); `…/distinct`, the share of k answers that are different
    texts. `k_samples/<k>_against_<l>/…` for l above 1. Where answers are listed with their probabilities:
    `k_samples/<k>/robust`, exact, against any single answer to each prompt (any l), and `…/robust_of_nash`, that of the
    Nash policy of the users' majority, which is known there too.
    """

    ks: tuple[int, ...] = (1, 2, 4, 8, 16)
    """answers of the policy that are shown; those beyond what it has answered are left out"""
    opponents: tuple[int, ...] = (1,)
    """answers of the opponent that are shown beside them"""
    earlier: int = 2
    """policies of the run that oppose it at most: base, the one before, and others evenly between"""

    needs: ClassVar[tuple[str, ...]] = ("answers", "users")

    def problems(self) -> Iterable[str]:
        for name, numbers in (("ks", self.ks), ("opponents", self.opponents)):
            if not numbers or min(numbers) < 1 or len(set(numbers)) < len(numbers):
                yield f"{name} must be different numbers of at least 1, got {numbers}"
        if self.earlier < 1:
            yield f"earlier must be at least 1, got {self.earlier}"

    def asks(self, names: Sequence[str], others: Sequence[str]) -> Iterable[tuple[str, ...]]:
        """About each of the pool."""
        return [(names[-1], each) for each in opposing(names, others, self.earlier)]

    def __call__(self, context: HeldOut) -> Metrics:
        return self.facing(context, opposing(context.names, context.others, self.earlier))

    def facing(self, context: HeldOut, opponents: Sequence[str]) -> Metrics:
        """The same against a pool of these policies, of the run or of others, whose answers are independent of the
        evaluated policy's."""
        metrics = self.distinct(context.current)
        if (said := listed(context)) is not None:
            metrics |= self.robust([(said, context.current.weights)])
            metrics |= self.robust([(said, nash_of(said))], "robust_of_nash")
        return metrics | self.told(self.rates(context, opponents))

    def rates(self, context: HeldOut, names: Iterable[str]) -> dict[str, Float[np.ndarray, "k l b"]]:
        """Against each of the policies, and what each user likes best of what it answers."""
        found = {}
        for name in names:
            pair = (context.current, context.answers(name))
            said = context.preferences(name)
            each, favourites = self._between(said, pair)
            found[f"vs_{name}"] = each
            for user, rates in zip(said.annotators, favourites, strict=True):
                found[f"vs_{name}/best_for/{user}"] = rates
        return found

    def robust(self, members: Sequence[tuple[Preferences, Laws]], name: str = "robust") -> Metrics:
        """Against the sets of l answers that win most often on each prompt, over k answers of one of several policies
        that is drawn: what users say of all answers, and the policies' laws over them. Not of more sets than `SETS`."""
        found: Metrics = {}
        for opponents in self.opponents:
            if comb(members[0][1].shape[1] + opponents - 1, opponents) > SETS:
                continue
            wins = np.mean([self._gains(*each, opponents) for each in members], 0)
            rates = 1 - wins.max(-1).mean(-1)
            found |= {
                f"{self._named(k, opponents)}/{name}": float(rate) for k, rate in zip(self.ks, rates, strict=True)
            }
        return found

    def _gains(self, said: Preferences, laws: Laws, opponents: int) -> Float[np.ndarray, "k b s"]:
        """How likely one of a set of so many answers is picked, for every set."""
        pairs, shares = zip(said.by_annotator, laws, strict=True), np.asarray(said.weights)
        each = [np.einsum("o,kos->ks", shares, gains_of_sets(*pair, self.ks, opponents)) for pair in pairs]
        return np.stack(each, 1)

    def _named(self, k: int, opponents: int) -> str:
        return f"k_samples/{k}" if opponents == 1 else f"k_samples/{k}_against_{opponents}"

    def distinct(self, rollouts: Rollouts) -> Metrics:
        """Different texts among k answers, over k."""
        whole, (_, samples) = enumerated(rollouts), rollouts.weights.shape
        found: Metrics = {}
        for k in self.ks:
            if k > samples and not whole.all():
                continue
            shares = []
            for texts, weights, all_there in zip(rollouts.texts, rollouts.weights, whole, strict=True):
                _, counts = np.unique(texts, return_counts=True)
                absent = (1 - weights) ** k if all_there else [comb(samples - n, k) / comb(samples, k) for n in counts]
                shares.append((1 - np.asarray(absent)).sum() / k)
            found[f"k_samples/{k}/distinct"] = float(np.mean(shares))
        return found

    def of_mixture(self, members: Sequence[HeldOut], opponents: Sequence[str]) -> Metrics:
        """Of the policy that draws one of the evaluated policies of `members` for each prompt, and k answers from it
        (`rollouts.one_of_policies`). The mean over the draw, so nothing is drawn. As in `facing`, no answer of an
        opponent may be a member's own."""
        rates = [self.rates(each, opponents) for each in members]
        metrics = _mean([self.distinct(each.current) for each in members])
        told = [(said, each.current.weights) for each in members if (said := listed(each)) is not None]
        if len(told) == len(members):
            metrics |= self.robust(told)
        return metrics | self.told({name: np.mean([each[name] for each in rates], 0) for name in rates[0]})

    def told(self, rates: Rates) -> Metrics:
        """The metrics of rates against single policies, and against the worst of all."""
        metrics: Metrics = {}
        for i, k in enumerate(self.ks):
            for j, opponents in enumerate(self.opponents):
                columns = {name: each[i, j] for name, each in rates.items() if np.isfinite(each[i, j]).all()}
                if not columns:
                    continue
                named = self._named(k, opponents)
                for name, each in columns.items():
                    if "/" not in name:
                        metrics |= estimated(each).metrics(f"{named}/{name}")
                metrics |= worst(np.stack(list(columns.values()), 1)).metrics(f"{named}/worst")
        return metrics

    def _between(
        self, said: Preferences, pair: tuple[Rollouts, Rollouts]
    ) -> tuple[Float[np.ndarray, "k l b"], Float[np.ndarray, "o k l b"]]:
        """Of the first policy against the second, whose answers lie one after the other along m, and against what each
        user likes best of these, shown once: NaN of l above 1."""
        whole, count = (enumerated(pair[0]), enumerated(pair[1])), len(pair[0].prompts)
        shape = (len(self.ks), len(self.opponents), count)
        rates, best = np.full(shape, np.nan), np.full((len(said.annotators), *shape), np.nan)
        for number in range(count):
            ours, theirs = (Shown.of(each, number, bool(of[number])) for each, of in zip(pair, whole, strict=True))
            table = Met(said.by_annotator[number], np.asarray(said.weights), ours, theirs)
            rates[..., number], best[..., number] = table.rates(self.ks, self.opponents)
        return rates, best


def listed(context: HeldOut) -> Preferences | None:
    """What users say of all the answers that the evaluated policy can give; None unless they are listed."""
    rollouts = context.current
    return context.oracle(rollouts, context.key) if enumerated(rollouts).all() else None


def nash_of(said: Preferences) -> Float[np.ndarray, "b m"]:
    """The Nash policies of two players who are asked for what most users prefer."""
    return np.stack([solved(each.tobytes(), len(each)) for each in said.prefer])


def _mean(each: Sequence[Metrics]) -> Metrics:
    return {name: float(np.mean([one[name] for one in each])) for name in each[0]}


@dataclass(frozen=True)
class Shown:
    """A policy's answers to a prompt: as many samples, or with the law that they are listed with."""

    samples: int
    law: Float[np.ndarray, " m"] | None

    @classmethod
    def of(cls, rollouts: Rollouts, number: int, listed: bool) -> "Shown":
        """Those to prompt `number`; `listed` where they are all that there are."""
        return cls(rollouts.weights.shape[1], rollouts.weights[number].astype(np.float64) if listed else None)

    @property
    def weights(self) -> Float[np.ndarray, " m"]:
        """How likely each is the one that is shown first."""
        return np.full(self.samples, 1 / self.samples) if self.law is None else self.law

    def can(self, number: int) -> bool:
        """Whether so many can be shown."""
        return self.law is not None or number <= self.samples


@dataclass(frozen=True)
class Met:
    """What users say of ours and theirs to one prompt, one after the other along m, and each user's share."""

    by_user: Float[np.ndarray, "o m m"]
    shares: Float[np.ndarray, " o"]
    ours: Shown
    theirs: Shown

    def rates(
        self, ks: Sequence[int], against: Sequence[int]
    ) -> tuple[Float[np.ndarray, "k l"], Float[np.ndarray, "o k l"]]:
        """WR(k, l), and WR(k, 1) against each user's favourite."""
        there = [k for k in ks if self.ours.can(k)], [each for each in against if self.theirs.can(each)]
        rates = np.full((len(ks), len(against)), np.nan)
        best = np.full((len(self.shares), len(ks), len(against)), np.nan)
        if not all(there):
            return rates, best
        us, them = self._us(max(there[0])), self._them(max(there[1]))
        favourites = self._favourites()
        for i, k in enumerate(ks):
            if k not in there[0]:
                continue
            for j, opponents in enumerate(against):
                if opponents in there[1]:
                    picked = (us[k] * them[opponents - 1]) @ SHARES @ self.theirs.weights
                    rates[i, j] = 1 - opponents * (self.shares @ picked)
                if opponents == 1:
                    best[:, i, j] = 1 - self.shares @ (us[k] @ SHARES)[:, favourites]
        return rates, best

    def _us(self, most: int) -> Float[np.ndarray, "k1 o m q"]:
        """How likely each of theirs is picked before any of 0, 1, … `most` of ours."""
        each = kept(self.by_user[:, self.ours.samples :, : self.ours.samples])
        if self.ours.law is not None:
            return over_draws(each, self.ours.law, most)
        return over_sets(each, min(most, self.ours.samples), self.ours.samples)

    def _them(self, most: int) -> Float[np.ndarray, "l o m q"]:
        """And before any of 0, 1, … `most` − 1 others of theirs."""
        each = kept(self.by_user[:, self.ours.samples :, self.ours.samples :])
        if self.theirs.law is not None:
            return over_draws(each, self.theirs.law, most - 1)
        own = np.arange(self.theirs.samples)
        each[:, own, own] = 0.0
        return over_sets(each, most - 1, self.theirs.samples - 1)

    def _favourites(self) -> Int[np.ndarray, " o"]:
        """Which of theirs each user prefers to most of them: none of ours has a say in it."""
        theirs = self.by_user[:, self.ours.samples :, self.ours.samples :]
        return np.asarray((theirs @ self.theirs.weights).argmax(-1))


EXAMPLE = KSampleWinRate(ks=(1, 2), opponents=(1, 2))
