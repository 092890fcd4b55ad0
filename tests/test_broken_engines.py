"""Engines and rollouts that yield what was not asked for are refused by name, before it is committed."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from made_broken import changed, put
from made_engines import KEY, SPEC, few
from made_feedback import fed
from made_models import ONE, tiny
from made_rollouts import PROMPTS
from made_runs import run_here

from jaxalign.errors import BrokenContract
from jaxalign.rollouts import seam
from jaxalign.rollouts.contract import Bounds, Drawer, Drawn, Roller
from jaxalign.rollouts.lockstep import Lockstep
from jaxalign.rollouts.samplers import Greedy
from jaxalign.rollouts.shares import Share


def drawn() -> Drawn:
    """Good answers to prompts 0 and 2: two each, of at most four tokens, of 259."""
    lengths = np.array([[4, 2], [1, 3]], np.int32)
    real = np.arange(4) < lengths[..., None]
    return Drawn(
        np.array([0, 2]),
        np.where(real, 7, 0).astype(np.int32),
        lengths,
        np.ones((2, 2), bool),
        np.where(real, -1, 0).astype(np.float32),
    )


BROKEN: dict[str, Callable[[Drawn], Any]] = {
    "must yield Drawn, got a tuple": lambda good: (good.numbers, good.tokens),
    "prompt 3 is not wanted": lambda good: changed(good, numbers=np.array([0, 3])),
    "prompt -1 is not wanted": lambda good: changed(good, numbers=np.array([0, -1])),
    "the same prompt twice": lambda good: changed(good, numbers=np.array([2, 2])),
    "numbers must be a NumPy array, got a list": lambda good: changed(good, numbers=[0, 2]),
    "tokens must be integer [2, 2, 4], got int32 [2, 2, 5]": lambda good: changed(
        good, tokens=np.ones((2, 2, 5), np.int32)
    ),
    "tokens must be integer [2, 2, 4], got float32": lambda good: changed(good, tokens=good.tokens.astype(np.float32)),
    "tokens must be integer [2, 2, 4], got int32 [1, 2, 4]": lambda good: changed(good, tokens=good.tokens[:1]),
    "tokens[1, 0, 0] is 259, not within [0, 258]": lambda good: changed(good, tokens=put(good.tokens, (1, 0, 0), 259)),
    "tokens[0, 1, 1] is -1": lambda good: changed(good, tokens=put(good.tokens, (0, 1, 1), -1)),
    "lengths[0, 0] is 5, not within [1, 4]": lambda good: changed(good, lengths=put(good.lengths, (0, 0), 5)),
    "lengths[0, 1] is 0": lambda good: changed(good, lengths=put(good.lengths, (0, 1), 0)),
    "finished must be bool [2, 2], got int32": lambda good: changed(good, finished=good.lengths),
    "logps[0, 0, 0] is nan": lambda good: changed(good, logps=put(good.logps, (0, 0, 0), np.nan)),
    "must be 0 behind the end": lambda good: changed(good, tokens=put(good.tokens, (1, 0, 3), 5)),
}


@dataclasses.dataclass(frozen=True)
class Says:
    """An engine that yields what it is given, whatever is wanted."""

    pieces: tuple[Any, ...]

    def open(self, *_: Any) -> Drawer:
        return self

    def __call__(self, *_: Any) -> Any:
        yield from self.pieces

    def programs(self, *_: Any) -> tuple[()]:
        return ()

    def calls(self, *_: Any) -> dict[str, int]:
        return {}


def says(*pieces: Any) -> Roller:
    return dataclasses.replace(SPEC, engine=Says(pieces)).on(tiny(), ONE, rows=4)


@pytest.mark.parametrize("sentence", BROKEN)
def test_draws_that_were_not_asked_for_are_refused_by_the_engines_name(sentence):
    with pytest.raises(BrokenContract) as refused:
        list(seam.checked(says(BROKEN[sentence](drawn())), {}, PROMPTS, np.array([0, 2]), KEY))
    assert str(refused.value).startswith("rollout engine Says: ")
    assert sentence in str(refused.value)


def test_good_draws_pass_and_become_texts():
    (share,) = seam.checked(says(drawn()), {}, PROMPTS, np.array([0, 2]), KEY)
    assert share.rollouts.prompts == (PROMPTS[0], PROMPTS[2])
    assert len(share.rollouts.texts[0]) == 2


def test_prompts_answered_twice_or_never_are_refused():
    with pytest.raises(BrokenContract, match="prompt 0 is not wanted, or was answered before"):
        list(seam.checked(says(drawn(), drawn()), {}, PROMPTS, np.array([0, 2]), KEY))
    with pytest.raises(BrokenContract, match="prompt 1 is answered 0 times"):
        seam.rolled(says(drawn()), {}, PROMPTS[:3], KEY)
    share = next(seam.checked(says(drawn()), {}, PROMPTS, np.array([0, 2]), KEY))
    with pytest.raises(BrokenContract, match="prompt 2 is answered 2 times"):
        seam.refuse_gaps(says(), [share, Share(np.array([1, 2]), share.rollouts)], 3)


BROKEN_SHARES: dict[str, Callable[[Share], Any]] = {
    "must yield Shares, got a Rollouts": lambda good: good.rollouts,
    "prompts are not those of their numbers": lambda good: changed(good, numbers=np.array([2, 0])),
    "texts must be [2, 2]": lambda good: changed(
        good, rollouts=dataclasses.replace(good.rollouts, texts=(("a",), ("b",)))
    ),
    "weights of a prompt's answers must be at least 0 and sum to 1": lambda good: changed(
        good, rollouts=dataclasses.replace(good.rollouts, weights=np.ones((2, 2), np.float32))
    ),
    "tokens[0, 0, 0] is 300": lambda good: changed(
        good, rollouts=dataclasses.replace(good.rollouts, tokens=put(good.rollouts.tokens, (0, 0, 0), 300))
    ),
    "lengths must be integer [2, 2], got int32 [2, 1]": lambda good: changed(
        good, rollouts=changed(good.rollouts, lengths=good.rollouts.lengths[:, :1])
    ),
}


@dataclasses.dataclass(frozen=True)
class Tells:
    """A rollout that yields what it is given."""

    share: Any
    bounds: Bounds

    def check(self, prompts: Any) -> None: ...

    def __call__(self, *_: Any) -> Any:
        yield self.share

    def programs(self, *_: Any) -> tuple[()]:
        return ()

    def calls(self, *_: Any) -> dict[str, int]:
        return {}


@pytest.mark.parametrize("sentence", BROKEN_SHARES)
def test_shares_that_were_not_asked_for_are_refused_by_the_rollouts_name(sentence):
    good = next(seam.checked(says(drawn()), {}, PROMPTS, np.array([0, 2]), KEY))
    broken = Tells(BROKEN_SHARES[sentence](good), says().bounds)
    with pytest.raises(BrokenContract) as refused:
        seam.rolled(broken, {}, PROMPTS, KEY)
    assert str(refused.value).startswith("rollout Tells: ")
    assert sentence in str(refused.value)


@dataclasses.dataclass(frozen=True)
class Beyond:
    """Lockstep, whose tokens are none of the vocabulary."""

    def open(self, *given: Any) -> Any:
        draw = Lockstep().open(*given)
        return lambda *asked: (changed(drawn, tokens=drawn.tokens + 1000) for drawn in draw(*asked))


def test_nothing_of_a_broken_engine_is_committed(tmp_path):
    experiment = few()
    broken = fed(experiment, rollout=dataclasses.replace(experiment.feedback.rollout, engine=Beyond()))
    with pytest.raises(BrokenContract, match=r"rollout engine Beyond: tokens\[0, 0, 0\] is 1\d\d\d, not within"):
        run_here(broken, tmp_path)
    assert (tmp_path / "initial" / "heldout").exists()
    assert not list((tmp_path / "0000").glob("rollouts*"))


@dataclasses.dataclass(frozen=True)
class Astray:
    """A sampler whose tokens are none of the vocabulary."""

    shift: int

    def __call__(self, logits: Any, keys: Any) -> Any:
        return Greedy()(logits, keys) + self.shift


@pytest.mark.parametrize("shift", [1000, -1000])
def test_a_sampler_that_leaves_the_vocabulary_is_blamed_itself(tmp_path, shift):
    experiment = few()
    astray = fed(experiment, rollout=dataclasses.replace(experiment.feedback.rollout, sampler=Astray(shift)))
    with pytest.raises(BrokenContract, match=r"^sampler Astray: drew tokens that are none of the vocabulary's \d+$"):
        run_here(astray, tmp_path)
    assert not list((tmp_path / "0000").glob("rollouts*"))
