"""Can a schedule settle on the games that a run has sampled? Told per prompt, where theory or an exact run tells it.

Where an answer beats all others nothing rotates for long, and a linearisation at the policy that sampled would see
frequencies that mean nothing. So three cases are kept apart:

    rounds of COMAL, mixed equilibrium    the local factor of a round (`certificates`), linearised at the equilibrium
    rounds of COMAL, other games          what an exact round does: KL(Nash ‖ policy) and duality gap, after over before
    anchor kept until the inner problem   the modulus |1 - eta tau + i eta omega| of a step, linearised at the
    is solved, or for good (INPO)         equilibrium of the game regularised around the anchor

All of it is local or of exact steps on i.i.d. pairs of these answers: fits that fall short are not seen.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from jaxalign.games.certificates import SILENT, Number, round_factor, skew_spectrum, step_modulus
from jaxalign.games.sampled_games import SUPPORT, SampledGames, gains, gaps, kl, log_weights, mirror_steps

TOLD = 0.1
"""Share of the prompts, led away from their equilibrium, from which on a schedule is warned of: a sampled game may be
unlike the one it is sampled from."""


LARGEST = 1e100
"""No factor is told as more: rounds of thousands of steps overflow, and numbers that are logged are finite."""


@dataclass(frozen=True)
class Setting:
    """Exact steps of size `step` on the game, pulled to the anchor by `tau`; `inner` of them to a swap, None: as many
    as the inner problem takes."""

    step: Number
    tau: Number
    inner: int | None


@dataclass(frozen=True)
class Stability:
    """Factors of a round or moduli of a step by prompt, NaN where there is no local one, and what one exact round does
    where there is none: (before, after) summed over those prompts."""

    setting: Setting
    factors: Float[np.ndarray, " b"]
    nats: tuple[float, float] = (0.0, 0.0)
    gap: tuple[float, float] = (0.0, 0.0)

    @property
    def local(self) -> Bool[np.ndarray, " b"]:
        """Where there is a factor."""
        return ~np.isnan(self.factors)

    @property
    def expanding(self) -> Bool[np.ndarray, " b"]:
        """Where a round, or a step, leads away. A factor of exactly 1 does not: nothing moves."""
        return np.nan_to_num(self.factors) > 1.0 + SILENT

    @property
    def warning(self) -> str:
        """What is wrong, as a clause; empty unless more than `TOLD` of the prompts are led away."""
        away, count = int(self.expanding.sum()), len(self.factors)
        if away <= TOLD * count:
            return ""
        mean, inner = times(float(self.factors[self.expanding].mean())), self.setting.inner
        if inner is None:
            return (
                f"on {away} of {count} prompts an exact step leads away from the solution of the inner problem, near "
                f"which it multiplies the distance by {mean}"
            )
        rotating = int(self.local.sum())
        return (
            f"on {rotating} of {count} prompts the sampled answers have a mixed equilibrium, and near {away} of these "
            f"an exact round of {inner} iterations leads away from it: it multiplies the distance by {mean}"
        )

    def metrics(self) -> dict[str, float]:
        """What a run logs, over the prompts that were looked at.

        `align/expanding`: share of them on which a round leads away from the equilibrium. With swaps every so many
        iterations `align/rotating`, the share with a mixed equilibrium, `align/contraction`, the mean local factor over
        these, and of all others `align/round_kl` and `align/round_gap`: what one exact round leaves of KL(Nash ‖
        policy) and of the duality gap. Without such swaps `align/modulus`, the mean modulus of a step. A name whose
        prompts are none is absent.
        """
        local = self.local
        metrics = {"align/expanding": float(self.expanding.mean())}
        if self.setting.inner is None:
            return metrics | {"align/modulus": float(self.factors.mean())}
        metrics["align/rotating"] = float(local.mean())
        if local.any():
            metrics["align/contraction"] = float(self.factors[local].mean())
        for name, (before, after) in (("align/round_kl", self.nats), ("align/round_gap", self.gap)):
            if before > SILENT:
                metrics[name] = after / before
        return metrics


def times(factor: float) -> str:
    """A factor in digits that tell it from 1."""
    shown = f"{factor:.3g}"
    return shown if shown != "1" or factor == 1 else f"1 {'+' if factor > 1 else '-'} {abs(factor - 1):.1g}"


def stability(games: SampledGames, setting: Setting) -> Stability:
    """What there is to say of a setting on these games."""
    if setting.inner is None:
        omega = skew_spectrum(games.prefer, np.exp(games.regularised(setting.tau)))
        return Stability(setting, np.minimum(step_modulus(omega, setting.step, setting.tau).max(-1), LARGEST))
    factors = np.full(len(games.prefer), np.nan)
    factors[games.rotating] = np.minimum(local_factors(games, setting), LARGEST)
    calm = ~games.rotating
    nash, prefer, before = log_weights(games.nash[calm]), games.prefer[calm], games.start[calm]
    after = mirror_steps(prefer, before, before, setting.step, setting.tau, setting.inner)
    nats = float(kl(nash, before).sum()), float(kl(nash, after).sum())
    return Stability(setting, factors, nats, (float(gaps(prefer, before).sum()), float(gaps(prefer, after).sum())))


def local_factors(games: SampledGames, setting: Setting) -> Float[np.ndarray, " k"]:
    """The worst factor of a round over the spectrum of each game that rotates, and over answers that its equilibrium
    leaves out.

    The log-probability of such an answer, which loses by some margin, falls by margin (1 - (1 - eta tau)^inner) / tau a
    round. KL to the equilibrium is linear in its probability, and of second order in what rotates: half the exponent.
    """
    assert setting.inner is not None
    each = (round_factor(omega, setting.step, setting.tau, setting.inner) for omega in games.frequencies)
    # An equilibrium without any frequency left mixes answers that tie.
    rotation = np.array([factors.max(initial=0.0) for factors in each])
    nash, prefer = games.nash[games.rotating], games.prefer[games.rotating]
    margins = 0.5 - gains(prefer, log_weights(nash))
    reach = (1.0 - (1.0 - setting.step * setting.tau) ** setting.inner) / setting.tau
    mixed = np.array([_alike(table, policy > SUPPORT) for table, policy in zip(prefer, nash, strict=True)], bool)
    left_out = np.where(mixed.reshape(nash.shape), 0.0, np.exp(-0.5 * np.maximum(margins, 0.0) * reach))
    return np.maximum(rotation, left_out.max(-1, initial=0.0))


def _alike(prefer: Float[np.ndarray, "m m"], support: Bool[np.ndarray, " m"]) -> Bool[np.ndarray, " m"]:
    """The answers of the support, and those that do as they do against every other: sampled again, they lose by no
    margin, and an equilibrium that names another copy does not leave them out."""
    return np.asarray((np.abs(prefer[:, None] - prefer[support][None]).max(-1) <= SILENT).any(-1))
