"""Many small games at once, as a run samples them: b prompts, m answers each. NumPy, fp64, no compilation.

What exact learners do on them tells what a schedule can do on the preferences that a run meets, with nothing left of
fits that fall short and answers that were not drawn.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxalign.games.certificates import FAINT, SILENT, Number, skew_spectrum
from jaxalign.games.solve import nash

EXAMINED = 256
"""Games that are looked at, evenly chosen of those there are: a linear program for each without a winner."""

MIXED = 3
"""Answers that an equilibrium mixes at least for anything to rotate: of two, one is better or they tie."""

SUPPORT = 1e-6
"""Least probability of an answer that an equilibrium mixes in."""

LOST = -1e3
"""Log-probability of an answer that the policy has lost: its probability is 0, and nothing is infinite."""

LENGTHS = 0.5 ** np.arange(8.0)
"""Lengths of a Newton step that are tried."""

Games = Float[np.ndarray, "*b m m"]
Policies = Float[np.ndarray, "*b m"]


@dataclass(frozen=True)
class SampledGames:
    """Answers of the policy to b prompts: who beats whom, their weights under the policy, and log policy / anchor."""

    prefer: Float[np.ndarray, "b m m"]
    weights: Float[np.ndarray, "b m"]
    log_ratio: Float[np.ndarray, "b m"]

    @classmethod
    def of(
        cls,
        prefer: Float[np.ndarray, "b m m"],
        weights: Float[np.ndarray, "b m"],
        log_ratio: Float[np.ndarray, "b m"] | None = None,
    ) -> "SampledGames":
        """In fp64, weights normalised; a log-ratio of None is that of a policy that is its own anchor."""
        weights = weights.astype(np.float64) / weights.sum(-1, keepdims=True, dtype=np.float64)
        ratio = np.zeros_like(weights) if log_ratio is None else log_ratio.astype(np.float64)
        return cls(prefer.astype(np.float64), weights, ratio)

    def thinned(self, most: int = EXAMINED) -> "SampledGames":
        """At most so many of them, evenly chosen."""
        chosen = np.unique(np.linspace(0, len(self.prefer) - 1, min(most, len(self.prefer))).round().astype(int))
        return self.those(chosen)

    def those(self, which: Int[np.ndarray, " k"] | Bool[np.ndarray, " b"]) -> "SampledGames":
        """The games of these numbers, or where it is true."""
        return SampledGames(self.prefer[which], self.weights[which], self.log_ratio[which])

    def merged(self) -> "SampledGames":
        """The same games with answers that are the same action as one, of their weights together: exact steps treat
        them alike, and what is computed of a game grows with the cube of its answers. Games of fewer than the others
        are filled with actions that lose to all and have no weight."""
        found = [_distinct(*game) for game in zip(self.prefer, self.log_ratio, strict=True)]
        most = max(len(first) for first, _ in found)
        prefer = np.tile(0.5 * np.eye(most), (len(found), 1, 1))
        weights, ratio = np.zeros((len(found), most)), np.zeros((len(found), most))
        for game, (first, which) in enumerate(found):
            count = len(first)
            prefer[game, :count, :count] = self.prefer[game][np.ix_(first, first)]
            prefer[game, :count, count:] = 1.0
            if count < most:  # among one another they tie
                prefer[game, count:, count:] = 0.5
            np.add.at(weights[game], which, self.weights[game])
            ratio[game, :count] = self.log_ratio[game, first]
        return SampledGames(prefer, weights, ratio)

    @cached_property
    def start(self) -> Float[np.ndarray, "b m"]:
        """Log-probabilities of the answers under the policy."""
        return log_weights(self.weights)

    @cached_property
    def anchor(self) -> Float[np.ndarray, "b m"]:
        """Log-probabilities under the anchor, as the log-ratio reweighs the policy's answers."""
        return log_normalised(self.start - self.log_ratio)

    @cached_property
    def nash(self) -> Float[np.ndarray, "b m"]:
        """A Nash policy of each."""
        return equilibria(self.prefer, np.exp(self.start))

    @cached_property
    def rotating(self) -> Bool[np.ndarray, " b"]:
        """Where no answer is unbeaten and the equilibrium mixes three or more: around it policies rotate."""
        beaten = ~(self.prefer >= 0.5 - SILENT).all(-1).any(-1)
        return np.asarray(beaten & ((self.nash > SUPPORT).sum(-1) >= MIXED))

    @cached_property
    def frequencies(self) -> list[Float[np.ndarray, " k"]]:
        """omega at the equilibrium of each game that rotates, on its support."""
        found = []
        for game in np.flatnonzero(self.rotating):
            support = self.nash[game] > SUPPORT
            omega = skew_spectrum(self.prefer[game][np.ix_(support, support)], self.nash[game][support])
            found.append(omega[(omega > FAINT * omega[-1]) & (omega > SILENT)])
        return found

    def regularised(self, tau: Number) -> Float[np.ndarray, "b m"]:
        """Log-probabilities of the equilibria around the anchor."""
        if tau not in self._solved:
            self._solved[tau] = regularised_equilibria(self.prefer, self.anchor, tau)
        return self._solved[tau]

    @cached_property
    def _solved(self) -> dict[Number, Float[np.ndarray, "b m"]]:
        """Solutions by tau, of those that were asked for."""
        return {}


def _distinct(
    prefer: Float[np.ndarray, "m m"], log_ratio: Float[np.ndarray, " m"]
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " m"]]:
    """The first of each action among a game's answers, and which of them every answer is: of one action are answers
    that win as often against each other one, and lose as often, at one log-ratio (to the rounding of its sum)."""
    described = np.concatenate([prefer, prefer.T, log_ratio[:, None].round(4)], 1)
    _, first, which = np.unique(described, axis=0, return_index=True, return_inverse=True)
    return first, which.reshape(-1)


def log_weights(weights: Policies) -> Policies:
    """Log-probabilities of the answers' weights, normalised."""
    return log_normalised(np.where(weights > 0.0, np.log(np.maximum(weights, 1e-300)), LOST))


def log_normalised(logits: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Log-softmax over the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def kl(logp: Float[np.ndarray, "..."], logq: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """KL(p ‖ q) over the last axis, nats."""
    return np.asarray((np.exp(logp) * (logp - logq)).sum(-1))


def gains(prefer: Games, logp: Policies) -> Policies:
    """Win rates of the answers against the policies."""
    return np.asarray((prefer @ np.exp(logp)[..., None])[..., 0])


def gaps(prefer: Games, logp: Policies) -> Float[np.ndarray, " b"]:
    """Duality gaps, both players counted."""
    return np.asarray(2.0 * (gains(prefer, logp).max(-1) - 0.5))


def equilibria(prefer: Games, start: Policies) -> Policies:
    """A Nash policy of each game: where answers are unbeaten, those in the proportions of `start`; else by linear
    programming.

    Answers that nobody beats tie with one another, so every mixture of them is an equilibrium, and this is the one that
    learners from `start` come to.
    """
    unbeaten = (prefer >= 0.5 - SILENT).all(-1)
    shares = np.where(unbeaten, np.maximum(start, np.finfo(np.float64).tiny), 0.0)
    sums = shares.sum(-1, keepdims=True)
    found = shares / np.where(sums > 0.0, sums, 1.0)
    for game in np.flatnonzero(~unbeaten.any(-1)):
        found[game] = nash(prefer[game])
    return np.asarray(found)


def mirror_steps(prefer: Games, logp: Policies, anchor: Policies, eta: Number, tau: Number, steps: int) -> Policies:
    """The policies after exact steps of mirror descent to a fixed anchor: INPO's, and COMAL's inner ones."""
    for _ in range(steps):
        pulled = (1.0 - eta * tau) * logp + eta * tau * anchor
        logp = np.maximum(log_normalised(pulled + eta * gains(prefer, logp)), LOST)
    return logp


def rounds(prefer: Games, logp: Policies, eta: Number, tau: Number, inner: int, count: int) -> Policies:
    """The policies after `count` exact rounds of COMAL: `inner` steps each to the anchor they began at."""
    for _ in range(count):
        logp = mirror_steps(prefer, logp, logp, eta, tau, inner)
    return logp


def best_responses(prefer: Games, logp: Policies, anchor: Policies, tau: Number) -> Policies:
    """Log-probabilities of BR(π) ∝ anchor exp(P(· ≻ π) / tau)."""
    return np.maximum(log_normalised(anchor + gains(prefer, logp) / tau), LOST)


def adaptive_rounds(
    prefer: Games, logp: Policies, eta: Number, tau: Number, accept: Number, steps: int
) -> tuple[Policies, Int[np.ndarray, " b"]]:
    """The policies after `steps` exact iterations whose anchor moves by the certificate (`anchors.adaptive`), and how
    many rounds were closed in each game."""
    anchor, closed = logp, np.zeros(len(logp), np.int64)
    for _ in range(steps):
        response, moved = best_responses(prefer, logp, anchor, tau), kl(logp, anchor)
        solved = ((moved > 0.0) & (kl(logp, response) <= accept * moved))[:, None]
        logp = np.where(solved, response, mirror_steps(prefer, logp, anchor, eta, tau, 1))
        anchor, closed = np.where(solved, response, anchor), closed + solved[:, 0]
    return logp, closed


def regularised_equilibria(prefer: Games, anchor: Policies, tau: Number, limit: int = 40) -> Policies:
    """Log-probabilities of the solutions of the games regularised around `anchor`: Newton's method along a path of
    falling regularisation, as `prox` has it, on all games together."""
    logp = anchor
    for power in np.maximum(6.0 - 0.5 * np.arange(limit), 0.0):
        logp = _newton_step(prefer, logp, anchor, tau * 2.0**power)
    return logp


def _newton_step(prefer: Games, logp: Policies, anchor: Policies, tau: Number) -> Policies:
    """The best of some lengths of a Newton step on l = anchor + P softmax(l) / tau, the step of length 0 among them."""
    policy, size = np.exp(logp), logp.shape[-1]
    residual = logp - best_responses(prefer, logp, anchor, tau)
    spread = np.eye(size) * policy[..., None, :] - policy[..., :, None] * policy[..., None, :]
    move = np.linalg.solve(np.eye(size) - prefer @ spread / tau, residual[..., None])[..., 0]
    lengths = np.append(LENGTHS, 0.0)[:, None, None]
    trials = np.maximum(log_normalised(logp - lengths * move), LOST)
    many = (len(lengths), *prefer.shape)
    errors = kl(trials, best_responses(np.broadcast_to(prefer, many), trials, np.broadcast_to(anchor, many[:-1]), tau))
    return np.asarray(trials[np.nanargmin(errors, axis=0), np.arange(len(logp))])
