"""An anchor that follows the policy within a fit: trust-region updates of the reference. Gorbatovski et al. 2024
(TR-DPO, arXiv 2404.09656).

    every `every` steps:   anchor <- share · policy + (1 − share) · anchor

`share` 1 is the hard update, the anchor becoming the policy; less is the soft one, and with `every` 1 a small share is
an exponential moving average. TRL's `sync_ref_model` is the same. Of adapters the factors are averaged, which is no
average of weights unless the share is 1. The next iteration's fit begins with the anchor that `swap_every` says.

What a fit does not see is measured against the anchor that it began with (`heldout/loss`, `fit/heldout_loss`): the loss
against one that moves is of another objective at every step, and could choose none of them. Inside the fit it is told
beside it, as `heldout/loss_as_fitted`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxalign.types import Params


@dataclass(frozen=True)
class Following:
    """The anchor's parameters are part of the training state; log-probs of other references are stored."""

    share: float = 0.6
    """of the policy in the new anchor, in (0, 1] (the paper's alpha)"""
    every: int = 512
    """optimizer steps between updates, >= 1 (the paper's tau)"""

    def problems(self) -> Iterable[str]:
        if not 0 < self.share <= 1:
            yield f"share must lie in (0, 1], got {self.share}"
        if self.every < 1:
            yield f"every must be at least 1, got {self.every}"

    def stored(self, needs: Iterable[str]) -> tuple[str, ...]:
        """Roles whose log-probs are stored: all but the anchor."""
        return tuple(role for role in needs if role != "anchor")

    def live(self, needs: Iterable[str]) -> tuple[str, ...]:
        """Roles whose parameters enter the step: the anchor, if the loss needs it."""
        return tuple(role for role in needs if role == "anchor")

    def moved(self, step: Int[Array, ""], reference: Params, policy: Params) -> Params:
        """The anchor after `step` steps."""
        share = jnp.where(step % self.every == 0, jnp.float32(self.share), jnp.float32(0))
        return jax.tree.map(lambda old, new: old + share * (new - old), reference, policy)


EXAMPLE = Following(share=0.6, every=2)
