"""General preferences: a vector for each answer, and preferences by an antisymmetric product, which may cycle.

    s(i ≻ j) = Σ_l v_i[2l] v_j[2l+1] − v_i[2l+1] v_j[2l],        P(i ≻ j) = σ(s / tau)
    loss = −p log σ(s(chosen ≻ rejected) / tau) − (1 − p) log σ(−s(chosen ≻ rejected) / tau)

Zhang et al. 2024, "Beyond Bradley-Terry models" (arXiv 2410.02197). With 2k outputs it holds any
preference among 2k + 1 answers or fewer, and a reward r is the vector (r, 1). The paper's code may divide vectors by
their length; here they are as the head gives them, since that is what files of the model say of themselves.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.contracts.scores import GroupScores, agreement
from jaxalign.losses.margins import expected_over_labels
from jaxalign.models.heads import preference_margin


@dataclass(frozen=True)
class GeneralPreference:
    """Negative log-likelihood (nats) of the label, of an even number of outputs an answer."""

    tau: float = 1.0
    """temperature: products are divided by it, > 0; whoever reads the model divides by the same"""

    needs: ClassVar[tuple[str, ...]] = ()

    def problems(self) -> Iterable[str]:
        if not self.tau > 0:
            yield f"tau must be positive, got {self.tau}"

    def misfits(self, outputs: int, responses: int) -> Iterable[str]:
        if outputs % 2:
            yield f"reads an even number of outputs, two for each plane of preferences, and there are {outputs}"
        if responses != 2:
            yield f"reads pairs, and groups are of {responses}"

    def log_odds(self, outputs: Float[Array, "b r o"]) -> Float[Array, " b"]:
        return preference_margin(outputs[:, 0], outputs[:, 1]) / self.tau

    def ranks(self, outputs: Float[Array, "b r o"]) -> Float[Array, "b r"]:
        """Half of the log-odds, up and down: alone, an answer has no rank."""
        half = self.log_odds(outputs) / 2
        return jnp.stack([half, -half], axis=-1)

    def accuracies(self, scores: GroupScores) -> Float[Array, " b"]:
        return agreement(self.log_odds(scores.outputs), scores.prefer)

    def __call__(self, scores: GroupScores) -> Float[Array, " b"]:
        odds = self.log_odds(scores.outputs)
        return expected_over_labels(scores.prefer, -jax.nn.log_sigmoid(odds), -jax.nn.log_sigmoid(-odds))


EXAMPLE = GeneralPreference(tau=0.5)
