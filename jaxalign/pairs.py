"""Preferences → training groups of two responses: which pairs to train on, and what label they carry.

The theorem behind INPO and COMAL wants pairs drawn i.i.d. from the policy that sampled (`RandomPair`, or `AllPairs`,
which is its expectation). `BestSecond` is what COMAL's released code does and `BestWorst` what INPO's paper does; both
solve another game, that of who beats whom, or circle. BENCHMARKS.md has what exact recursions come to under each rule.
A pair of identical texts says nothing (P = 1/2, margin 0, no gradient), so no rule makes one; a prompt whose responses
are all alike gives no group and is counted by `pairing_metrics`.

Every group is oriented by its label, the preferred response first. What is said of weights holds for sums over all
groups of an iteration. A step divides by the weights of its batch (`training.step`), so its loss is a ratio: batches
count alike, a short last one and one of prompts with many duplicates as much as any other.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from jaxalign.types import Groups, Labels, Metrics, Preferences, Rollouts


@runtime_checkable
class Label(Protocol):
    """(P(first ≻ second), key) → (is the first chosen, the label P(chosen ≻ rejected)), one of each a pair."""

    def __call__(
        self, prefer: Float[np.ndarray, " g"], key: PRNGKeyArray
    ) -> tuple[Bool[np.ndarray, " g"], Float[np.ndarray, " g"]]: ...


@runtime_checkable
class OfPolicy(Protocol):
    """A rule that says of itself whether its loss is, in expectation, that of pairs drawn i.i.d. from the policy and
    labelled with the oracle's own probability: the law under which a fit is a mirror step, and certificates hold."""

    @property
    def iid(self) -> bool: ...


@dataclass(frozen=True)
class SoftLabel:
    """The oracle's probability as it is; the more probable winner is chosen, the first on a tie. No label noise."""

    def __call__(
        self, prefer: Float[np.ndarray, " g"], key: PRNGKeyArray
    ) -> tuple[Bool[np.ndarray, " g"], Float[np.ndarray, " g"]]:
        return prefer >= 0.5, np.maximum(prefer, 1 - prefer)


@dataclass(frozen=True)
class BernoulliLabel:
    """Votes, each drawn with the oracle's probability, as raters give them: the share of them that the chosen one has.
    A single one is certain from then on. In expectation the oracle's own label, for losses that are linear in it."""

    votes: int = 1
    """votes on each pair, >= 1"""

    def problems(self) -> Iterable[str]:
        if self.votes < 1:
            yield f"votes must be at least 1, got {self.votes}"

    def __call__(
        self, prefer: Float[np.ndarray, " g"], key: PRNGKeyArray
    ) -> tuple[Bool[np.ndarray, " g"], Float[np.ndarray, " g"]]:
        drawn = np.asarray(jax.random.uniform(key, (self.votes, *prefer.shape)))
        share = (drawn < prefer).mean(0, dtype=np.float32)
        return share >= 0.5, np.maximum(share, 1 - share)


@dataclass(frozen=True)
class MajorityLabel:
    """The more probable winner, certain. A tie stays a tie (1/2): no majority is made up."""

    def __call__(
        self, prefer: Float[np.ndarray, " g"], key: PRNGKeyArray
    ) -> tuple[Bool[np.ndarray, " g"], Float[np.ndarray, " g"]]:
        return prefer >= 0.5, np.where(prefer == 0.5, prefer, np.ones_like(prefer))


@dataclass(frozen=True)
class RankLabel:
    """The better rank, certain, whatever the oracle thinks of the two alone. For rules that rank."""

    def __call__(
        self, prefer: Float[np.ndarray, " g"], key: PRNGKeyArray
    ) -> tuple[Bool[np.ndarray, " g"], Float[np.ndarray, " g"]]:
        return np.ones(prefer.shape, bool), np.ones_like(prefer)


@dataclass(frozen=True)
class RandomPair:
    """Pairs (y, y′) drawn i.i.d. from the policy, given that they differ: the law INPO's theorem asks for.

    Responses (i, j) of different text are drawn with probability w_i w_j / D, D = Σ w_i w_j over all of them: for
    samples (w = 1/m) any two are an i.i.d. pair, for an enumerated policy the draw is from π⊗π. A group weighs
    D / `pairs_per_prompt`. So the expected loss is that under π⊗π but for pairs of one text, which have no gradient:
    all of it for an enumerated policy, (m − 1)/m of it for m samples, since a sample does not meet itself. That is one
    factor of all prompts, and normalising by the weights takes it out.
    """

    pairs_per_prompt: int = 1
    """drawn independently of one another, >= 1"""
    label: Label = BernoulliLabel()
    """who is chosen, and how surely"""

    @property
    def iid(self) -> bool:
        """It is, with the oracle's own labels; those of the majority make another game, of the signs."""
        return isinstance(self.label, SoftLabel | BernoulliLabel)

    def problems(self) -> Iterable[str]:
        yield from unranked_problems(self.label)
        if self.pairs_per_prompt < 1:
            yield f"pairs_per_prompt must be at least 1, got {self.pairs_per_prompt}"

    def __call__(self, rollouts: Rollouts, preferences: Preferences, key: PRNGKeyArray) -> Groups:
        draw_key, label_key = jax.random.split(key)
        weights = rollouts.weights.astype(np.float64)
        joint = weights[:, :, None] * weights[:, None, :] * ~duplicates(rollouts)
        prompt, *pair = drawn_pairs(joint, self.pairs_per_prompt, draw_key)
        weight = joint.sum((1, 2))[prompt] / self.pairs_per_prompt
        return labelled(rollouts, preferences, prompt, np.stack(pair, -1), weight, self.label, label_key)


def drawn_pairs(
    joint: Float[np.ndarray, "b m n"], count: int, key: PRNGKeyArray
) -> tuple[Int[np.ndarray, " g"], Int[np.ndarray, " g"], Int[np.ndarray, " g"]]:
    """Numbers of prompts and of two answers each: `count` pairs of every prompt, drawn in proportion to `joint`; none
    where that is 0 throughout."""
    prompt = np.repeat(np.flatnonzero(joint.sum((1, 2)) > 0), count)
    cumulative = joint.reshape(len(joint), -1).cumsum(-1)
    drawn = np.asarray(jax.random.uniform(key, prompt.shape), np.float64) * cumulative[prompt, -1]
    found = [np.searchsorted(cumulative[each], value, "right") for each, value in zip(prompt, drawn, strict=True)]
    return prompt, *np.divmod(np.array(found, np.int64), joint.shape[2])


@dataclass(frozen=True)
class AllPairs:
    """Every unordered pair i < j of different text once, weight 2 w_i w_j: `RandomPair` in expectation, no noise.

    Σ_{i<j} 2 w_i w_j loss(i, j) = E_{π⊗π} loss − Σ_i w_i² loss(i, i) for a loss that does not change when a pair and
    its label are swapped together; the pairs left out have no gradient. Exact for an enumerated policy, for m samples
    (m − 1)/m of it in expectation, as with `RandomPair`.
    """

    label: Label = SoftLabel()
    """who is chosen, and how surely"""

    @property
    def iid(self) -> bool:
        """As that of `RandomPair`."""
        return isinstance(self.label, SoftLabel | BernoulliLabel)

    def problems(self) -> Iterable[str]:
        yield from unranked_problems(self.label)

    def __call__(self, rollouts: Rollouts, preferences: Preferences, key: PRNGKeyArray) -> Groups:
        count, samples = rollouts.weights.shape
        first, second = np.triu_indices(samples, 1)
        prompt = np.repeat(np.arange(count), len(first))
        pairs = np.tile(np.stack([first, second], -1), (count, 1))
        weights = rollouts.weights.astype(np.float64)
        weight = 2 * weights[prompt, pairs[:, 0]] * weights[prompt, pairs[:, 1]]
        return labelled(rollouts, preferences, prompt, pairs, weight, self.label, key)


@dataclass(frozen=True)
class BestSecond:
    """Rank 1 against rank 2: the pairing of COMAL's released code (Liu et al. 2024, arXiv 2410.23223).

    Rank is the mean win probability against the prompt's other distinct texts (see `ranking`). Another game than the
    oracle's: with small steps and answers that are all different it comes to the Nash policy of who beats whom, however
    surely; where answers come again, as of a policy that has become sure, far from either.
    """

    label: Label = RankLabel()
    """who is chosen, and how surely"""

    def __call__(self, rollouts: Rollouts, preferences: Preferences, key: PRNGKeyArray) -> Groups:
        return ranked(rollouts, preferences, 1, self.label, key)


@dataclass(frozen=True)
class BestWorst:
    """Rank 1 against the last rank: best against worst of m, as INPO (arXiv 2407.00617) and SPPO (2405.00675) train.

    Rank is the mean win probability against the prompt's other distinct texts (see `ranking`). Another game than the
    oracle's: with small steps and answers that are all different it comes to the Nash policy of who beats whom, however
    surely; with steps at which i.i.d. pairs settle it circles.
    """

    label: Label = RankLabel()
    """who is chosen, and how surely"""

    def __call__(self, rollouts: Rollouts, preferences: Preferences, key: PRNGKeyArray) -> Groups:
        return ranked(rollouts, preferences, -1, self.label, key)


def unranked_problems(label: Label) -> Iterable[str]:
    """What is wrong with a label for a rule that does not rank."""
    if isinstance(label, RankLabel):
        yield "label is RankLabel, but this rule ranks nothing; use SoftLabel, BernoulliLabel or MajorityLabel"


def ranking(texts: tuple[str, ...], prefer: Float[np.ndarray, "m m"]) -> list[int]:
    """Indices of the distinct texts, best first, by mean P(· ≻ other distinct text); ties by text, lower first.

    Identical texts are one candidate, the first of them. Neither rank nor tie depends on the order of the responses.
    """
    distinct = [texts.index(text) for text in sorted(set(texts))]
    table = prefer[np.ix_(distinct, distinct)].astype(np.float64)
    order = np.argsort(-table.sum(-1), kind="stable")
    return [distinct[index] for index in order]


def ranked(rollouts: Rollouts, preferences: Preferences, rank: int, label: Label, key: PRNGKeyArray) -> Groups:
    """The best response against the one at `rank` (0-based, negative from the end), one group a prompt."""

    def rows() -> Iterator[tuple[int, int, int]]:
        for prompt, (texts, prefer) in enumerate(zip(rollouts.texts, preferences.prefer, strict=True)):
            order = ranking(texts, prefer)
            if len(order) > 1:
                yield prompt, order[0], order[rank]

    table = np.array(list(rows()), np.int64).reshape(-1, 3)
    return labelled(rollouts, preferences, table[:, 0], table[:, 1:], np.ones(len(table)), label, key)


def labelled(
    rollouts: Rollouts,
    preferences: Preferences,
    prompt: Int[np.ndarray, " g"],
    pairs: Int[np.ndarray, "g 2"],
    weight: Float[np.ndarray, " g"],
    label: Label,
    key: PRNGKeyArray,
) -> Groups:
    """Groups of the given pairs, oriented by their labels, without pairs of identical texts or of weight 0."""
    first, second = pairs.T
    chosen, prefer = label(preferences.prefer[prompt, first, second], key)
    keep = (weight > 0) & ~duplicates(rollouts)[prompt, first, second]
    responses = np.where(chosen[:, None], pairs, pairs[:, ::-1])[keep]
    return Groups(
        prompt=prompt[keep].astype(np.int32),
        responses=responses.astype(np.int32),
        weight=weight[keep].astype(np.float32),
        labels=labels_of(rollouts, preferences, prompt[keep], responses, prefer[keep]),
    )


def labels_of(
    rollouts: Rollouts,
    preferences: Preferences,
    prompt: Int[np.ndarray, " g"],
    responses: Int[np.ndarray, "g r"],
    prefer: Float[np.ndarray, " g"],
) -> Labels:
    """What the preferences say of groups whose label is `prefer`. Rules of one's own call it for groups of any size."""
    win = win_rates(rollouts, preferences)
    votes = preferences.by_annotator[prompt, :, responses[:, 0], responses[:, 1]]
    score = None
    if preferences.scores is not None:
        mean = np.einsum("o,bom->bm", np.asarray(preferences.weights), preferences.scores)
        score = mean[prompt[:, None], responses].astype(np.float32)
    return Labels(
        prefer=prefer.astype(np.float32),
        win=win[prompt[:, None], responses].astype(np.float32),
        score=score,
        votes=votes.astype(np.float32),
        decided=(votes != 0.5).astype(np.float32),
    )


def win_rates(rollouts: Rollouts, preferences: Preferences) -> Float[np.ndarray, "b m"]:
    """P(y ≻ π) of each answer y, by the answers beside it and itself: what `Labels.win` is made of."""
    found: Float[np.ndarray, "b m"] = np.einsum("bij,bj->bi", preferences.prefer, rollouts.weights)
    return found


def duplicates(rollouts: Rollouts) -> Bool[np.ndarray, "b m m"]:
    """Whether responses i and j of a prompt are the same text."""
    firsts = np.array([[texts.index(text) for text in texts] for texts in rollouts.texts], np.int64)
    firsts = firsts.reshape(rollouts.weights.shape)
    return firsts[:, :, None] == firsts[:, None, :]


def pairing_metrics(rollouts: Rollouts, preferences: Preferences, groups: Groups) -> Metrics:
    """What the rule made of the preferences; shares are 0 where there is nothing to share.

    `pairs/groups`, `pairs/dropped_prompts` (prompts without a group), `pairs/mean_prefer` (the label), `pairs/ties`
    (share of groups the oracle holds at exactly 1/2), `pairs/duplicates` (share of responses whose text came before
    among their prompt's), `pairs/agreement` and `pairs/agreement/<annotator>` (mean P(chosen ≻ rejected) of the
    oracle and of each annotator). Of lone answers there are no ties and no agreement.
    """
    distinct = sum(len(set(texts)) for texts in rollouts.texts)
    found = {
        "pairs/groups": float(len(groups.prompt)),
        "pairs/dropped_prompts": float(len(rollouts.prompts) - len(np.unique(groups.prompt))),
        "pairs/mean_prefer": _mean(groups.labels.prefer),
        "pairs/duplicates": 1 - distinct / max(rollouts.weights.size, 1),
    }
    if groups.responses.shape[1] < 2:
        return found
    chosen, rejected = groups.responses[:, :2].T
    oracle = preferences.prefer[groups.prompt, chosen, rejected]
    each = preferences.by_annotator[groups.prompt, :, chosen, rejected].T
    found |= {"pairs/ties": _mean(oracle == 0.5), "pairs/agreement": _mean(oracle)}
    return found | {
        f"pairs/agreement/{name}": _mean(row) for name, row in zip(preferences.annotators, each, strict=True)
    }


def _mean(values: Float[np.ndarray, " g"] | Bool[np.ndarray, " g"]) -> float:
    """Mean in fp64, 0 for none."""
    return float(values.mean(dtype=np.float64)) if values.size else 0.0


EXAMPLES = (
    SoftLabel(),
    BernoulliLabel(),
    MajorityLabel(),
    RankLabel(),
    RandomPair(pairs_per_prompt=3),
    AllPairs(),
    BestSecond(),
    BestWorst(),
)
