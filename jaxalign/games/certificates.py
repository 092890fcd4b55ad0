"""What can be certified about a game whose equilibrium is known: its skew spectrum, contraction of (eta, tau, inner).

Linearised at an interior equilibrium π (Liu et al. 2024, arXiv 2410.23223, has no such analysis; ours), the game acts
as the skew matrix S = Mᵀ (P - 1/2) M with M Mᵀ = diag π - π πᵀ, whose eigenvalues are ± i omega. Per omega:

    multiplicative weights          |1 + i eta omega| > 1: spirals out
    mirror descent to the anchor    |a|, a = 1 - eta tau + i eta omega: stable for eta < 2 tau / (tau² + omega²)
                                    (linearised at the regularised equilibrium, where it settles)
    COMAL, `inner` steps a round    m = |a^inner + tau / (tau - i omega) (1 - a^inner)|
    COMAL, exact rounds             tau / sqrt(tau² + omega²)

`eta` is COMAL's step size; for a loss whose eta multiplies the KL (INPO), pass its inverse. What the same says of
matrices that a language model's run has sampled is in `stability`.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxalign.games.game import Game

Number = float | int

FAINT = 1e-3
"""Frequencies below this share of the largest are left out of a contraction factor: a sampled or even-sized game has
directions in which all policies are equal, and there is nothing to contract there."""

SILENT = 1e-6
"""A largest frequency up to this is rounding: fp32 resolves win probabilities around 1/2 to 6e-8."""


def leading_frequency(game: Game, policy: Float[Array, " v"], steps: int = 20) -> Float[Array, ""]:
    """The largest omega of the game at `policy`, by power iteration from below; two gains a step, any game size."""
    root = jnp.sqrt(policy)

    def apply(probe: Float[Array, " v"], _: None) -> tuple[Float[Array, " v"], Float[Array, ""]]:
        tangent = root * (probe - root * (root @ probe))
        moved = root * jax.jvp(game.gain, (policy,), (tangent,))[1]
        moved = moved - root * (root @ moved)
        size = jnp.linalg.norm(moved)
        return moved / jnp.maximum(size, jnp.finfo(size.dtype).tiny), size

    # Any vector not orthogonal to the leading pair will do; a fixed one keeps learners free of keys.
    probe = jnp.cos(1.7 * jnp.arange(policy.size, dtype=policy.dtype) + 0.3)
    return jax.lax.scan(apply, probe / jnp.linalg.norm(probe), None, length=steps)[1][-1]


def skew_spectrum(prefer: Float[np.ndarray, "*b m m"], policy: Float[np.ndarray, "*b m"]) -> Float[np.ndarray, "*b m"]:
    """The frequencies omega >= 0 of the linearised game at `policy`, ascending; each pair ± i omega appears twice."""
    policy = policy / policy.sum(-1, keepdims=True)
    root = np.sqrt(policy)
    square = np.eye(policy.shape[-1]) * root[..., None, :] - policy[..., :, None] * root[..., None, :]
    skew = np.swapaxes(square, -1, -2) @ (prefer - 0.5) @ square
    skew = 0.5 * (skew - np.swapaxes(skew, -1, -2))
    return np.sort(np.abs(np.linalg.eigvalsh(1j * skew)), axis=-1)


def round_factor(
    omega: Float[np.ndarray, "*b"], eta: Number, tau: Number, inner: Number | Int[np.ndarray, "..."]
) -> Float[np.ndarray, "..."]:
    """m(inner): by what factor a round of `inner` steps and the swap scale a deviation of frequency omega.

    `inner` may be infinity (exact rounds), for which the factor is tau / sqrt(tau² + omega²), or an array to broadcast.
    """
    if np.ndim(inner) == 0 and np.isinf(inner):
        return np.asarray(tau / np.hypot(tau, omega))
    share = tau / (tau - 1j * omega) if tau > 0.0 else np.zeros_like(omega)
    step = 1.0 - eta * tau + 1j * eta * omega
    # A diverging inner loop overflows to infinity, which is the right answer and no accident.
    with np.errstate(over="ignore", invalid="ignore"):
        power = step**inner
        factor = np.abs(power + share * (1.0 - power))
    return np.asarray(np.nan_to_num(factor, nan=np.inf))


def step_modulus(
    omega: Float[np.ndarray, "*b"], eta: Number | Float[np.ndarray, "..."], tau: Number
) -> Float[np.ndarray, "..."]:
    """|1 - eta tau + i eta omega|: by what factor one step to a fixed anchor scales a deviation of frequency omega from
    the regularised equilibrium, linearised there. Below 1 exactly where eta < 2 tau / (tau² + omega²)."""
    return np.asarray(np.hypot(1.0 - eta * tau, eta * omega))


def smallest_inner(omega: Float[np.ndarray, " m"], eta: Number, tau: Number, limit: int = 10_000) -> int | None:
    """The fewest inner steps from which on a round contracts at every frequency; None if none up to `limit` does."""
    worst = round_factor(omega, eta, tau, np.arange(1, limit + 1)[:, None]).max(-1)
    diverging = np.flatnonzero(worst >= 1.0)
    if diverging.size == 0:
        return 1
    return None if diverging[-1] == limit - 1 else int(diverging[-1]) + 2


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether (eta, tau, inner) can contract on a game, the factor a round, and what to change if not."""

    contracts: bool
    factor: float
    reason: str


def diagnose(
    prefer: Float[np.ndarray, "v v"], equilibrium: Float[np.ndarray, " v"], eta: Number, tau: Number, inner: int
) -> Verdict:
    """Judges fixed-step COMAL near `equilibrium` before any step is taken.

    `factor` is that of a deviation on the equilibrium's support, or of the probability of what is off it, whichever is
    the larger: of the square root of the latter, since KL is linear in it and of second order in a deviation. A factor
    of exactly 1 does not contract, and is no expansion either: it is told by name.
    """
    support = equilibrium > 1e-9
    policy = equilibrium[support]
    omega = skew_spectrum(prefer[np.ix_(support, support)], policy)
    omega = omega[omega > FAINT * omega[-1]]
    if eta * tau > 1.0:
        return Verdict(False, float("inf"), f"eta tau = {eta * tau:.3g} exceeds 1: the anchor's share overshoots")
    margins = 0.5 - (prefer @ equilibrium)[~support]
    if omega.size == 0 or omega[-1] <= SILENT:
        return _without_rotation(margins, eta, tau, inner)
    factor = float(round_factor(omega, eta, tau, inner).max())
    if factor < 1.0:
        # What ties with the equilibrium off its support never vanishes, and is no reason against it.
        margins = margins[margins > SILENT]
        factor = max(factor, _left_out(margins, eta, tau, inner) ** 0.5) if margins.size else factor
        return Verdict(True, factor, f"contracts by {factor:.4g} a round near the equilibrium")
    stable = 2.0 * tau / (tau**2 + float(omega[-1]) ** 2)
    if eta >= stable:
        advice = f"eta must be below 2 tau / (tau² + omega²) = {stable:.4g} (omega = {omega[-1]:.4g})"
    else:
        needed = smallest_inner(omega, eta, tau)
        advice = f"at least {needed} inner steps are needed" if needed else "no number of inner steps up to 10000 helps"
    does = "a round does not contract" if factor <= 1.0 + SILENT else f"a round expands by {factor:.4g}"
    return Verdict(False, factor, f"{does}: {advice}")


def _without_rotation(margins: Float[np.ndarray, " w"], eta: Number, tau: Number, inner: int) -> Verdict:
    """The verdict where only actions off the support move, which lose to the equilibrium by `margins`."""
    factor = _left_out(margins, eta, tau, inner)
    if margins.min(initial=np.inf) <= SILENT:
        return Verdict(True, factor, "nothing rotates, and actions off the equilibrium tie with it: no rate is known")
    return Verdict(True, factor, f"nothing rotates; what is off the equilibrium shrinks by {factor:.4g} a round")


def _left_out(margins: Float[np.ndarray, " w"], eta: Number, tau: Number, inner: int) -> float:
    """What a round of `inner` steps leaves of the probability of actions that lose to the equilibrium by `margins`: its
    logarithm falls by margin (1 - (1 - eta tau)^inner) / tau."""
    reach = (1.0 - (1.0 - eta * tau) ** inner) / tau if tau > 0.0 else eta * inner
    return float(np.exp(-margins.min(initial=np.inf) * reach))
