"""Adaptive COMAL: COMAL without eta, tau or a number of inner steps; certificates take their place. Ours.

Around anchor a, with BR(μ) ∝ a exp(gain(μ) / tau) and any inner iterate μ, optimality of BR and monotonicity of the
game give, for every Nash policy π*,

    KL(π* ‖ a) - KL(π* ‖ BR(μ)) >= KL(μ ‖ a) - KL(μ ‖ BR(μ)),                                  (certificate)

both terms on the right computable: tau KL(μ ‖ BR(μ)) is the regularised gap of μ. So once KL(μ ‖ BR(μ)) <=
`accept` KL(μ ‖ a) the anchor moves to BR(μ), closer to every Nash policy by at least (1 - accept) KL(μ ‖ a): the
"sufficient progress" of COMAL's Theorem 3 (Liu et al. 2024, arXiv 2410.23223) with a test instead of a schedule. It
is the relative-error criterion of hybrid proximal extragradient (Solodov & Svaiter 1999) in KL.

Inner steps are EGPO's extragradient steps. The first step size is 0.7 / omega, omega the largest frequency of the
game's skew spectrum at the policy; then each step measures the coupling along its own move and is taken only if

    eta <gain(half) - gain(μ), full - half> <= 0.8 [KL(full ‖ half) + (1 - eta tau) KL(half ‖ μ)],

which makes the step a contraction towards the regularised equilibrium by 1 - eta tau. Steps grow after a success and
shrink after a refusal, so no bound on the game is needed. `tau` starts at omega, falls where a stage has not brought
the gap down enough and rises where stages are easy; any positive sequence is allowed by COMAL's Theorem 1.

First-order steps alone are not enough where the support of the equilibrium rotates at very different frequencies:
rounds shrink a deviation of frequency omega by tau / sqrt(tau² + omega²), so tau has to fall to the least of them,
while eta stays below 1 / the largest, and a stage takes some times their ratio in steps: up to thousands in games of
some tens of actions. A Newton step on the regularised game takes no notice of that ratio. It costs some v gains and the
solution of v equations, so one is tried every v steps, and kept if it leaves less of KL(μ ‖ BR(μ)); if not, tau was too
small for it and rises. The certificate holds for any μ, hence for these.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxalign.games.certificates import leading_frequency
from jaxalign.games.divergence import kl
from jaxalign.games.game import Game, Real
from jaxalign.games.metrics import exploitability
from jaxalign.games.mixture import geometric_mixture
from jaxalign.games.prox import best_response, newton_step
from jaxalign.types import pytree

LARGEST = 2000
"""Actions up to which a Jacobian of the game is afforded."""


@pytree
class Adaptive:
    """Policy, anchor, the sizes in force, and the record of what was certified.

    `gap` is the exploitability when the anchor last moved; `rounds` counts its moves, `refused` inner steps that
    failed their test; `certified` (nats) is the sum of the certificates: KL(π* ‖ start) - KL(π* ‖ anchor) is at least
    this for every Nash policy π*.
    """

    logp: Float[Array, " v"]
    anchor: Float[Array, " v"]
    eta: Float[Array, ""]
    tau: Float[Array, ""]
    gap: Float[Array, ""]
    rounds: Int[Array, ""]
    refused: Int[Array, ""]
    certified: Float[Array, ""]


@pytree
class AdaptiveComal:
    """No field needs tuning; they are constants of the method.

    `accept` is the relative error an anchor may move with. A stage is slow when it leaves more than `slow` of the
    gap, easy when less than `easy`; tau is then multiplied or divided by `change`. A Newton step is tried every
    `newton` v steps, never if that is infinite or the game has more than `LARGEST` actions.
    """

    accept: Real = 0.1
    slow: Real = 0.6
    easy: Real = 0.3
    change: Real = 0.8
    newton: Real = 1.0

    def init(self, game: Game, start: Float[Array, " v"]) -> Adaptive:
        # A game without any coupling (all ties) has frequency 0; the floor keeps the sizes finite there.
        omega = jnp.maximum(leading_frequency(game, jnp.exp(start)), 1e-3)
        zero, none = jnp.zeros((), start.dtype), jnp.zeros((), jnp.int32)
        return Adaptive(start, start, 0.7 / omega, omega, exploitability(game, start), none, none, zero)

    def step(self, game: Game, state: Adaptive, t: Int[Array, ""]) -> Adaptive:
        """One inner step, or the anchor's move when the policy in hand certifies it."""
        gain = game.gain(jnp.exp(state.logp))
        response = jax.nn.log_softmax(state.anchor + gain / state.tau)
        error, moved = kl(state.logp, response), kl(state.logp, state.anchor)
        certified = error <= self.accept * moved
        eta = jnp.minimum(state.eta, 0.7 / state.tau)
        inner, accepted = _extragradient(game, state, gain, eta)
        inner, tau = self._newton(game, state, error, inner, t)
        gap = gain.max() - game.value
        return Adaptive(
            logp=jnp.where(certified, response, inner),
            anchor=jnp.where(certified, response, state.anchor),
            eta=jnp.where(certified, state.eta, eta * jnp.where(accepted, 1.1, 0.6)),
            tau=jnp.where(certified, self._next_tau(state, gap), tau),
            gap=jnp.where(certified, gap, state.gap),
            rounds=state.rounds + jnp.where(certified, 1, 0),
            refused=state.refused + jnp.where(certified | accepted, 0, 1),
            certified=state.certified + jnp.where(certified, moved - error, 0.0),
        )

    def _next_tau(self, state: Adaptive, gap: Float[Array, ""]) -> Float[Array, ""]:
        """The next stage's tau, by how much of the gap this one has left."""
        tau = jnp.where(gap > self.slow * state.gap, self.change * state.tau, state.tau)
        return jnp.where(gap < self.easy * state.gap, state.tau / self.change, tau)

    def _newton(
        self, game: Game, state: Adaptive, error: Float[Array, ""], inner: Float[Array, " v"], t: Int[Array, ""]
    ) -> tuple[Float[Array, " v"], Float[Array, ""]]:
        """The next inner policy and tau: by a Newton step if one is due and helps, else `inner`."""

        def attempt() -> tuple[Float[Array, " v"], Float[Array, ""]]:
            trial = newton_step(game, state.logp, state.anchor, state.tau)
            helps = kl(trial, best_response(game, trial, state.anchor, state.tau)) <= 0.9 * error
            # No gain exceeds 1: a game regularised with tau = 1 is easy for any step.
            return jnp.where(helps, trial, inner), jnp.where(helps, state.tau, jnp.minimum(1.3 * state.tau, 1.0))

        size = state.logp.size
        if size > LARGEST:
            return inner, state.tau
        # Under `vmap` over games this stays a branch, and its cost is spread, as long as they share t.
        count, period = (jnp.asarray(each, state.tau.dtype) for each in (t + 1, self.newton * size))
        return jax.lax.cond(count % period == 0, attempt, lambda: (inner, state.tau))


def _extragradient(
    game: Game, state: Adaptive, gain: Float[Array, " v"], eta: Float[Array, ""]
) -> tuple[Float[Array, " v"], Bool[Array, ""]]:
    """The extragradient step, or no step at all, and whether its test was passed."""
    pull = eta * state.tau
    pulled = geometric_mixture(state.logp, state.anchor, pull)
    half = jax.nn.log_softmax(pulled + eta * gain)
    ahead = game.gain(jnp.exp(half))
    full = jax.nn.log_softmax(pulled + eta * ahead)
    coupling = eta * (ahead - gain) @ (jnp.exp(full) - jnp.exp(half))
    accepted = coupling <= 0.8 * (kl(full, half) + (1.0 - pull) * kl(half, state.logp))
    return jnp.where(accepted, full, state.logp), accepted
