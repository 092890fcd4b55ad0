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
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxalign.games.certificates import leading_frequency
from jaxalign.games.divergence import kl
from jaxalign.games.game import Game, Real
from jaxalign.games.metrics import exploitability
from jaxalign.games.mixture import geometric_mixture
from jaxalign.types import pytree


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
    gap, easy when less than `easy`; tau is then multiplied or divided by `change`.
    """

    accept: Real = 0.1
    slow: Real = 0.6
    easy: Real = 0.3
    change: Real = 0.8

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
        inner, accepted = self._inner(game, state, gain)
        gap = gain.max() - game.value
        tau = jnp.where(gap > self.slow * state.gap, self.change * state.tau, state.tau)
        tau = jnp.where(gap < self.easy * state.gap, state.tau / self.change, tau)
        return Adaptive(
            logp=jnp.where(certified, response, inner),
            anchor=jnp.where(certified, response, state.anchor),
            eta=jnp.where(certified, state.eta, state.eta * jnp.where(accepted, 1.1, 0.6)),
            tau=jnp.where(certified, tau, state.tau),
            gap=jnp.where(certified, gap, state.gap),
            rounds=state.rounds + jnp.where(certified, 1, 0),
            refused=state.refused + jnp.where(certified | accepted, 0, 1),
            certified=state.certified + jnp.where(certified, moved - error, 0.0),
        )

    def _inner(
        self, game: Game, state: Adaptive, gain: Float[Array, " v"]
    ) -> tuple[Float[Array, " v"], Bool[Array, ""]]:
        """The extragradient step, or no step at all, and whether its test was passed."""
        eta = jnp.minimum(state.eta, 0.7 / state.tau)
        pull = eta * state.tau
        pulled = geometric_mixture(state.logp, state.anchor, pull)
        half = jax.nn.log_softmax(pulled + eta * gain)
        ahead = game.gain(jnp.exp(half))
        full = jax.nn.log_softmax(pulled + eta * ahead)
        coupling = eta * (ahead - gain) @ (jnp.exp(full) - jnp.exp(half))
        accepted = coupling <= 0.8 * (kl(full, half) + (1.0 - pull) * kl(half, state.logp))
        return jnp.where(accepted, full, state.logp), accepted
