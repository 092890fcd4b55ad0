"""What can be certified about a run of COMAL: the skew spectrum, contraction of (eta, tau, inner), sufficient
progress, and the same on the preference matrices sampled in a language-model run.

Linearised at an interior equilibrium π (Liu et al. 2024, arXiv 2410.23223, has no such analysis; ours), the game acts
as the skew matrix S = Mᵀ (P - 1/2) M with M Mᵀ = diag π - π πᵀ, whose eigenvalues are ± i omega. Per omega:

    multiplicative weights          |1 + i eta omega| > 1: spirals out
    mirror descent to the anchor    |a|, a = 1 - eta tau + i eta omega: stable for eta < 2 tau / (tau² + omega²)
    COMAL, `inner` steps a round    m = |a^inner + tau / (tau - i omega) (1 - a^inner)|
    COMAL, exact rounds             tau / sqrt(tau² + omega²)

`eta` is COMAL's step size; for a loss whose eta multiplies the KL (INPO), pass its inverse.
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


def contraction(
    prefer: Float[np.ndarray, "*b m m"], policy: Float[np.ndarray, "*b m"], eta: Number, tau: Number, inner: Number
) -> Float[np.ndarray, "*b"]:
    """`align/contraction`: the worst factor of a COMAL round over the measured spectrum of each game; below 1 the
    round contracts. 0 where nothing rotates: no frequency exceeds rounding.

    For a language-model run: `prefer` [b m m] the sampled preferences, `policy` [b m] the rollouts' weights, `eta` =
    1 / loss.eta, `tau` = loss.tau, `inner` = swap_every. The theory is local, for an interior equilibrium that
    `policy` is near. Elsewhere the skew part has frequencies though nothing rotates: of eight actions that one
    Bradley-Terry annotator ranks, it can make a factor above 1 of a round that takes the policy nearly all the way to
    the best. `diagnose` linearises at the equilibrium.
    """
    omega = skew_spectrum(prefer, policy)
    top = omega[..., -1:]
    counted = omega > FAINT * top
    factors = np.where(counted, round_factor(omega, eta, tau, inner), 0.0)
    return np.where(top[..., 0] > SILENT, factors.max(-1), 0.0)


def inner_gap(
    prefer: Float[np.ndarray, "*b m m"],
    log_ratio: Float[np.ndarray, "*b m"],
    weights: Float[np.ndarray, "*b m"],
    tau: Number,
) -> Float[np.ndarray, "*b"]:
    """`align/inner_gap`: estimate of the regularised gap tau KL(μ ‖ BR(μ)) of the policy that sampled, in units of
    win probability; 0 when the inner problem is solved.

    `log_ratio` [b m] is log μ / anchor (nats) of the sampled responses. With h = log_ratio - P(· ≻ μ) / tau the gap
    is tau (E_μ h + log E_μ exp(-h)): non-negative for every sample, exact when the responses enumerate the policy.
    From m samples the noise of the sampled win rates, divided by tau, counts as gap: the estimate errs high, by a bias
    that falls as 1 / m, so it never calls an inner problem solved too early. The diagonal counts 1/2, as the policy
    meets itself.
    """
    weights = weights / weights.sum(-1, keepdims=True)
    h = log_ratio - np.einsum("...ij,...j->...i", prefer, weights) / tau
    mean = (weights * h).sum(-1)
    lowest = h.min(-1, keepdims=True)
    gap = tau * (mean - lowest[..., 0] + np.log((weights * np.exp(lowest - h)).sum(-1)))
    return np.asarray(np.maximum(gap, 0.0))  # rounding alone would take it below


def run_metrics(
    prefer: Float[np.ndarray, "b m m"],
    log_ratio: Float[np.ndarray, "b m"],
    weights: Float[np.ndarray, "b m"],
    eta: Number,
    tau: Number,
    inner: Number,
) -> dict[str, float]:
    """What an iteration of a language-model run logs, means over its prompts.

    `align/inner_gap` (win probability): how far the inner problem is from solved; swap the anchor when it is small.
    `align/contraction`: the worst round factor; at 1 or above the schedule cannot settle on cyclic prompts.
    """
    return {
        "align/inner_gap": float(inner_gap(prefer, log_ratio, weights, tau).mean()),
        "align/contraction": float(contraction(prefer, weights, eta, tau, inner).mean()),
    }


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
    """Judges fixed-step COMAL near `equilibrium`, on its support, before any step is taken."""
    support = equilibrium > 1e-9
    policy = equilibrium[support]
    omega = skew_spectrum(prefer[np.ix_(support, support)], policy)
    omega = omega[omega > FAINT * omega[-1]]
    if eta * tau > 1.0:
        return Verdict(False, float("inf"), f"eta tau = {eta * tau:.3g} exceeds 1: the anchor's share overshoots")
    if omega.size == 0 or omega[-1] <= SILENT:
        return _without_rotation(0.5 - (prefer @ equilibrium)[~support], eta, tau, inner)
    factor = float(round_factor(omega, eta, tau, inner).max())
    if factor < 1.0:
        return Verdict(True, factor, f"contracts by {factor:.4g} a round near the equilibrium")
    stable = 2.0 * tau / (tau**2 + float(omega[-1]) ** 2)
    if eta >= stable:
        advice = f"eta must be below 2 tau / (tau² + omega²) = {stable:.4g} (omega = {omega[-1]:.4g})"
    else:
        needed = smallest_inner(omega, eta, tau)
        advice = f"at least {needed} inner steps are needed" if needed else "no number of inner steps up to 10000 helps"
    return Verdict(False, factor, f"a round expands by {factor:.4g}: {advice}")


def _without_rotation(margins: Float[np.ndarray, " w"], eta: Number, tau: Number, inner: int) -> Verdict:
    """The verdict where only actions off the support move, which lose to the equilibrium by `margins`.

    A round of `inner` steps takes the log-probability of such an action down by margin (1 - (1 - eta tau)^inner) / tau.
    """
    margin = float(margins.min(initial=np.inf))
    reach = (1.0 - (1.0 - eta * tau) ** inner) / tau if tau > 0.0 else eta * inner
    factor = float(np.exp(-margin * reach))
    if margin <= SILENT:
        return Verdict(True, factor, "nothing rotates, and actions off the equilibrium tie with it: no rate is known")
    return Verdict(True, factor, f"nothing rotates; what is off the equilibrium shrinks by {factor:.4g} a round")
