"""What comes out of a rollout or its engine, before anything is made of it: the answers that were asked for.

Raises BrokenContract, by the component's name, for other prompts or one prompt twice, other shapes or dtypes, tokens
outside the vocabulary, lengths beyond the limit, numbers that are not finite.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxalign.contracts.arrays import TOLERANCE, array_problems, described, range_problems
from jaxalign.contracts.traced import OUTSIDE
from jaxalign.errors import BrokenContract
from jaxalign.rollouts.contract import Bounds, Drawn, Roller
from jaxalign.rollouts.keys import Keys
from jaxalign.rollouts.shares import Share, in_order
from jaxalign.types import Params, Prompt, Rollouts


def rolled(roller: Roller, params: Params, prompts: Sequence[Prompt], keys: Keys) -> Rollouts:
    """Rollouts of all prompts in their order, kept nowhere; for one process alone."""
    shares = list(checked(roller, params, prompts, np.arange(len(prompts)), keys))
    refuse_gaps(roller, shares, len(prompts))
    return in_order(shares)


def checked(
    roller: Roller, params: Params, prompts: Sequence[Prompt], wanted: Int[np.ndarray, " k"], keys: Keys
) -> Iterator[Share]:
    """The roller's shares, each refused unless it answers some of the wanted prompts as it should."""
    left = set(wanted.tolist())
    for share in roller(params, prompts, wanted, keys):
        for problem in share_problems(share, prompts, left, roller.bounds):
            raise BrokenContract(f"rollout {type(roller).__name__}: {problem}")
        left -= set(share.numbers.tolist())
        yield share


def refuse_gaps(roller: Roller, shares: Sequence[Share], count: int) -> None:
    """BrokenContract unless the shares have each of `count` prompts once: the stream ended early, or several processes
    had the same prompts of a piece."""
    times = np.bincount(np.concatenate([np.zeros(0, np.int64), *(share.numbers for share in shares)]), minlength=count)
    for number in np.flatnonzero(times != 1):
        raise BrokenContract(f"rollout {type(roller).__name__}: prompt {number} is answered {times[number]} times")


def refuse_drawn(engine: object, sampler: object, drawn: object, wanted: Int[np.ndarray, " k"], bounds: Bounds) -> None:
    """BrokenContract unless `engine` has drawn what was asked for, with tokens of `sampler` that there are."""
    if isinstance(drawn, Drawn) and np.any(np.asarray(drawn.tokens) == OUTSIDE):
        named = type(sampler).__name__
        raise BrokenContract(f"sampler {named}: drew tokens that are none of the vocabulary's {bounds.vocab}")
    for problem in drawn_problems(drawn, set(wanted.tolist()), bounds):
        raise BrokenContract(f"rollout engine {type(engine).__name__}: {problem}")


def share_problems(share: object, prompts: Sequence[Prompt], wanted: set[int], bounds: Bounds) -> Iterator[str]:
    """What is wrong with a share, the first thing first: later ones may be of its making."""
    if not isinstance(share, Share):
        yield f"must yield Shares, got {described(share)}"
        return
    rollouts = share.rollouts
    yield from number_problems(share.numbers, wanted)
    if rollouts.prompts != tuple(prompts[number] for number in share.numbers):
        yield "prompts are not those of their numbers"
    shape = (len(share.numbers), bounds.samples)
    if tuple(len(row) for row in rollouts.texts) != (shape[1],) * shape[0]:
        yield f"texts must be {list(shape)}"
    yield from response_problems(rollouts.tokens, rollouts.lengths, rollouts.finished, rollouts.logps, shape, bounds)
    yield from array_problems("weights", rollouts.weights, shape)
    if not (rollouts.weights >= 0).all() or (np.abs(rollouts.weights.sum(1) - 1) > TOLERANCE).any():
        yield "weights of a prompt's answers must be at least 0 and sum to 1"


def drawn_problems(drawn: object, wanted: set[int], bounds: Bounds) -> Iterator[str]:
    """What is wrong with an engine's piece, the first thing first."""
    if not isinstance(drawn, Drawn):
        yield f"must yield Drawn, got {described(drawn)}"
        return
    yield from number_problems(drawn.numbers, wanted)
    shape = (len(drawn.numbers), bounds.samples)
    yield from response_problems(drawn.tokens, drawn.lengths, drawn.finished, drawn.logps, shape, bounds)
    for name, values in drawn.notes.items():
        yield from array_problems(f"notes[{name!r}]", values, shape)


def number_problems(numbers: Any, wanted: set[int]) -> Iterator[str]:
    """What is wrong with the prompts of a piece, which are some that are wanted, none twice."""
    count = len(numbers) if isinstance(numbers, np.ndarray) and numbers.ndim else 0
    yield from array_problems("numbers", numbers, (count,), np.integer)
    found = numbers.tolist()
    if other := sorted(set(found) - wanted):
        yield f"prompt {other[0]} is not wanted, or was answered before"
    if len(set(found)) < count:
        yield f"the same prompt twice among {found}"


def response_problems(
    tokens: Any, lengths: Any, finished: Any, logps: Any, shape: tuple[int, int], bounds: Bounds
) -> Iterator[str]:
    """What is wrong with the answers to b prompts, m each; `shape` is [b m]."""
    table = (*shape, bounds.response)
    yield from array_problems("tokens", tokens, table, np.integer)
    yield from array_problems("lengths", lengths, shape, np.integer)
    yield from array_problems("finished", finished, shape, np.bool_)
    yield from array_problems("logps", logps, table)
    yield from range_problems("tokens", tokens, 0, bounds.vocab - 1)
    yield from range_problems("lengths", lengths, 1, bounds.response)
    behind = np.arange(bounds.response) >= lengths[..., None]
    if ((tokens != 0) | (logps != 0))[behind].any():
        yield "tokens and logps must be 0 behind the end of an answer"
