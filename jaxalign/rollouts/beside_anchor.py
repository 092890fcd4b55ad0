"""Answers of the policy, and behind them as many of its anchor's to the same prompt, for pairings of both.

What is said of two policies takes answers of both: exploratory preference optimisation compares an answer of the policy
with one of the reference (Xie et al. 2024, arXiv 2405.21046, algorithm 1). The policy draws with the keys that it has
alone, the anchor with others. Each one's weights are halved, so that all of them sum to 1; recorded log-probs are of
whose answer it is. Where nobody says an anchor (the doctor) it is the policy itself.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxalign.mesh.flags import Options
from jaxalign.mesh.program import Program
from jaxalign.mesh.sharding import bytes_per_device
from jaxalign.models.speaker import Speaker
from jaxalign.rollouts.contract import AnchoredRollout, Bounds, Roller, Rollout
from jaxalign.rollouts.keys import Keys, folded
from jaxalign.rollouts.sample import Sample
from jaxalign.rollouts.shares import Share, joined, picked
from jaxalign.types import Params, Prompt

ANCHOR = 2**32 - 1
"""What the anchor's key is folded with; no prompt has this number."""


@dataclass(frozen=True)
class BesideAnchor:
    """`rollout`, of the policy and of its anchor: twice the answers, and the parameters of both."""

    rollout: Rollout = Sample(samples=1)
    """what is asked of each"""

    def problems(self) -> Iterable[str]:
        if isinstance(self.rollout, AnchoredRollout):
            yield f"rollout is a {type(self.rollout).__name__}, in which the anchor has a part already"

    def bounds(self, model: Speaker) -> Bounds:
        """Those of the rollout, with twice the answers."""
        return _twice(self.rollout.bounds(model))

    def unpaired(self) -> Iterable[str]:
        """As the rollout says, of as many answers as both give."""
        alone = self.rollout
        both = replace(alone, samples=2 * alone.samples) if isinstance(alone, Sample) else alone
        return (f"rollout.{reason}" for reason in both.unpaired())

    def on(self, model: Speaker, mesh: jax.sharding.Mesh, options: Options | None, rows: int) -> "BesideRoller":
        """Ready to roll out both, one after the other by the same programs."""
        return BesideRoller(self.rollout.on(model, mesh, options, rows))


class BesideRoller:
    """Rolls out the policy that it is given, and `anchor`; None: the policy again."""

    def __init__(self, alone: Roller, anchor: Params | None = None):
        self._alone, self._anchor = alone, anchor

    def beside(self, anchor: Params) -> "BesideRoller":
        """The same, with this anchor; what is compiled is shared."""
        return BesideRoller(self._alone, anchor)

    @property
    def bounds(self) -> Bounds:
        return _twice(self._alone.bounds)

    def check(self, prompts: Iterable[Prompt]) -> None:
        self._alone.check(prompts)

    def __call__(
        self, params: Params, prompts: Sequence[Prompt], wanted: Int[np.ndarray, " k"], keys: Keys
    ) -> Iterator[Share]:
        """Piece by piece of both; prompts that one has answered before the other wait for it.

        There are as many pieces as the longer of the two streams has, some of no prompts: pieces are committed by all
        processes in step, and which prompts have waited long enough is another matter on each.
        """
        anchor = params if self._anchor is None else self._anchor
        mine = self._alone(params, prompts, wanted, keys)
        theirs = self._alone(anchor, prompts, wanted, folded(keys, ANCHOR))
        first: list[Share] = []
        second: list[Share] = []
        for one, other in zip_longest(mine, theirs):
            first += [one] if one is not None else []
            second += [other] if other is not None else []
            both = np.intersect1d(_numbers(first), _numbers(second))
            yield _side_by_side(_of(first, both), _of(second, both))
            first, second = _without(first, both), _without(second, both)

    def programs(self, params: Params, prompt: int) -> tuple[Program, ...]:
        """The rollout's, beside the one of the two that does not speak."""
        held = bytes_per_device(params)
        return tuple(replace(each, resident=each.resident + held) for each in self._alone.programs(params, prompt))

    def calls(self, prompts: int) -> Mapping[str, int]:
        return {name: 2 * count for name, count in self._alone.calls(prompts).items()}


def _twice(bounds: Bounds) -> Bounds:
    return replace(bounds, samples=2 * bounds.samples)


def _numbers(shares: Sequence[Share]) -> Int[np.ndarray, " k"]:
    return np.concatenate([share.numbers for share in shares])


def _of(shares: Sequence[Share], numbers: Int[np.ndarray, " k"]) -> Share:
    """Those prompts' of some shares, in the order of `numbers`."""
    there = _numbers(shares)
    order = np.array([int(np.flatnonzero(there == number)[0]) for number in numbers], np.int64)
    names = {name for share in shares for name in share.notes}
    notes = {name: np.concatenate([share.notes[name] for share in shares])[order] for name in names}
    return Share(there[order], picked(joined([share.rollouts for share in shares]), order), notes)


def _without(shares: Sequence[Share], numbers: Int[np.ndarray, " k"]) -> list[Share]:
    return [_of(shares, np.setdiff1d(_numbers(shares), numbers))]


def _side_by_side(policy: Share, anchor: Share) -> Share:
    together = joined([policy.rollouts, anchor.rollouts], "m")
    notes = {name: _beside(each, anchor.notes[name]) for name, each in policy.notes.items()}
    return Share(policy.numbers, replace(together, weights=together.weights / 2), notes)


def _beside(one: Float[np.ndarray, "k m"], other: Float[np.ndarray, "k m"]) -> Float[np.ndarray, "k n"]:
    return np.concatenate([one, other], 1)


EXAMPLE = BesideAnchor(Sample(samples=2, max_tokens=4))
