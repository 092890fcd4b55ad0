"""What would contract on the games that a run has sampled: searched for, and then tried on them, exactly.

Where the inner loop is stable and its steps are too few, a smaller step alone is no help: the factor of a round tends
to 1 from above (at tau .02 and two steps, at every frequency looked at). And at steps above 1 / omega no inner loop is
stable, whatever tau: the largest stable step, 2 tau / (tau² + omega²), is never larger. A few inner steps that have not
diverged yet can contract all the same. So settings are searched jointly.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float

from jaxalign.games.certificates import round_factor, skew_spectrum, step_modulus
from jaxalign.games.sampled_games import SampledGames, kl, log_weights, mirror_steps, rounds
from jaxalign.games.stability import Setting

LONGEST = 100
"""Iterations a swap that are worth advising."""

SEARCHED = 32
"""Games that settings are searched on and tried on: those that rotate, where rounds are asked for."""

SURELY = 0.98
"""Median factor up to which advice is given: with a factor of almost 1 it takes hundreds of rounds. Single slow
frequencies, which always have one, only have to be below 1."""

STEPS = 3000
"""Steps that a setting is tried for."""

SMALLER = 0.5 ** np.arange(1, 12)
"""Smaller steps that are searched, as shares of the one in force."""

PULLS = 24
"""Values of tau that are searched, geometrically from a thousandth of the largest, 1 / step."""


def advice(games: SampledGames, setting: Setting) -> str:
    """A clause on what to change, or that nothing which was tried does; speaks of the fields of an INPO experiment."""
    concerned = games if setting.inner is None else games.those(games.rotating)
    games = concerned.thinned(SEARCHED)
    tried, count = len(games.prefer), len(concerned.prefer)
    where = "these answers" if tried == count else f"{tried} of these {count} prompts, which were tried"
    if (kept := at_this_step(games, setting)) is not None:
        return f"{described(kept, setting)} would contract on {where}"
    what, each = (
        ("loss.tau", "step") if setting.inner is None else (f"loss.tau and swap_every up to {LONGEST}", "round")
    )
    smaller = next(smaller_steps(games, setting), None)
    other = f"{described(smaller, setting)} would" if smaller else "nor does any smaller step that was tried"
    slow = f"{1 - SURELY:.0%} or more a {each} on {where}"
    return f"no {what} that was tried contracts by {slow} at loss.eta {1 / setting.step:.3g}; {other}"


def described(found: Setting, now: Setting) -> str:
    """What of `now` to change, as fields of an experiment are called."""
    changes = []
    if found.step != now.step:
        changes.append(f"loss.eta {1 / found.step:.3g}")
    if found.tau != now.tau:
        changes.append(f"loss.tau {found.tau:.3g}")
    if found.inner != now.inner:
        changes.append(f"swap_every {found.inner}")
    return ", ".join(changes)


def at_this_step(games: SampledGames, setting: Setting) -> Setting | None:
    """The least change that contracts with the step left alone: other inner steps, then another tau, then both."""
    return next(contracting(games, _kept_step(games, setting)), None)


def smaller_steps(games: SampledGames, setting: Setting) -> Iterator[Setting]:
    """Settings of smaller steps that contract, the largest step first, each with the tau in force if that will do."""
    for share in SMALLER:
        yield from contracting(games, _kept_step(games, replace(setting, step=share * setting.step), itself=True))


def contracting(games: SampledGames, settings: Iterable[Setting]) -> Iterator[Setting]:
    """Those that have local factors for it on every game and that are seen to settle on them."""
    return (each for each in settings if enough(factors(games, each)) and settles(games, each))


def enough(factors: Float[np.ndarray, "*k n"]) -> Bool[np.ndarray, "*k"]:
    """Whether all of n factors contract, and half of them surely."""
    if not factors.shape[-1]:
        return np.ones(factors.shape[:-1], bool)
    return np.asarray((factors.max(-1) < 1.0) & (np.median(factors, -1) <= SURELY))


def factors(games: SampledGames, setting: Setting) -> Float[np.ndarray, " n"]:
    """Of a round for every frequency of every game, or of a step for the fastest of each."""
    if setting.inner is None:
        omega = skew_spectrum(games.prefer, np.exp(games.regularised(setting.tau)))
        return np.asarray(step_modulus(omega, setting.step, setting.tau).max(-1))
    return round_factor(_all(games), setting.step, setting.tau, setting.inner)


def settles(games: SampledGames, setting: Setting) -> bool:
    """Whether exact steps from the policy come nearer to where they should settle on every game that rotates, and half
    as near or nearer on most."""
    if setting.inner is None:
        goal, start = games.regularised(setting.tau), games.start
        found = mirror_steps(games.prefer, start, games.anchor, setting.step, setting.tau, STEPS // 4)
    else:
        which, count = games.rotating, max(STEPS // setting.inner, 1)
        goal, start = log_weights(games.nash[which]), games.start[which]
        found = rounds(games.prefer[which], start, setting.step, setting.tau, setting.inner, count)
    before, after = kl(goal, start), np.maximum(kl(goal, found), 0.0)
    reached = after <= 1e-6
    return bool((reached | (after < before)).all() and (reached | (after <= 0.5 * before)).mean() > 0.5)


def _kept_step(games: SampledGames, setting: Setting, itself: bool = False) -> Iterator[Setting]:
    if itself:
        yield setting
    if setting.inner is None:
        yield from _other_pulls(setting)
        return
    yield from _inner(games, setting)
    yield from _other_pulls(setting)
    both = [found for tau in _pulls(setting) for found in _inner(games, replace(setting, tau=tau))]
    yield from sorted(both, key=lambda each: (each.inner or 0, each.tau))


def _other_pulls(setting: Setting) -> Iterator[Setting]:
    return (replace(setting, tau=tau) for tau in _pulls(setting) if tau != setting.tau)


def _pulls(setting: Setting) -> list[float]:
    """Values of tau, ascending, in two significant digits: they are for people to type."""
    return sorted({float(f"{tau:.2g}") for tau in np.geomspace(1e-3, 0.999, PULLS) / setting.step})


def _inner(games: SampledGames, setting: Setting) -> list[Setting]:
    """The same with the fewest inner steps beyond those in force that contract surely, and with the most below them."""
    assert setting.inner is not None
    inner = np.arange(1, LONGEST + 1)
    surely = inner[enough(round_factor(_all(games), setting.step, setting.tau, inner[:, None]))]
    more, fewer = surely[surely > setting.inner], surely[surely < setting.inner]
    return [replace(setting, inner=int(each)) for each in (*more[:1], *fewer[-1:])]


def _all(games: SampledGames) -> Float[np.ndarray, " n"]:
    """Every frequency of every game."""
    return np.concatenate([*games.frequencies, np.zeros(0)])
