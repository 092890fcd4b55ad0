"""Gradients of losses whose groups see one another, over all microbatches of a step at once.

    L = Σ_g weight_g · loss_g(s_1 … s_B) / Σ weight,        ∇ L = Σ over microbatches of Σ_g ∂L/∂s_g ∇ s_g

s_g are the log-probs of group g's tokens. They are few bytes, so those of all microbatches are made first, without
keeping what a backward pass would need; then L is differentiated by them, and each microbatch is run again and its
gradient pulled back through the model: memory is that of one microbatch, for one forward pass more (Gao et al. 2021,
arXiv 2101.06983). Where a step is one microbatch the plain gradient is the same, and costs nothing more.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxalign.contracts.traced import losses
from jaxalign.training.views import Seen, View
from jaxalign.types import Batch, Params


def whole(
    view: View[Seen], seen_of: Callable[[Params, Batch], Seen], params: Params, batches: Batch
) -> tuple[Params, dict[str, Array]]:
    """The gradient of the mean of `view.loss`, by weight, over stacked microbatches, and metrics."""
    seen = at_once(lambda batch: seen_of(params, batch), batches)
    share = batches.weight.reshape(-1) / jnp.maximum(batches.weight.sum(), 1e-30)

    def value(varying: Array) -> Array:
        return jnp.where(share > 0, losses(view.loss, view.at(seen, varying)) * share, 0.0).sum()

    loss, slopes = jax.value_and_grad(value)(view.varying(seen))

    def pulled(both: tuple[Batch, Array]) -> Params:
        batch, slope = both
        _, pull_back = jax.vjp(lambda params: view.varying(seen_of(params, batch)), params)
        return pull_back(slope)[0]

    gradients = summed(pulled, (batches, slopes.reshape(*batches.weight.shape, *slopes.shape[1:])))
    return gradients, {"loss": loss, **view.watch(seen, share)}


def at_once(see: Callable[[Batch], Seen], batches: Batch) -> Seen:
    """What is seen of all stacked microbatches, computed one after the other."""
    if batches.weight.shape[0] == 1:
        return see(jax.tree.map(lambda leaf: leaf[0], batches))
    apart: Seen = jax.lax.map(see, batches)
    seen: Seen = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), apart)
    return seen


def summed(make: Callable[[Any], Any], batches: Any) -> Any:
    """Σ make(batch) over the leading axis, one batch at a time: one of them is in memory, and one in the program."""
    count = jax.tree.leaves(batches)[0].shape[0]
    first = jax.tree.map(lambda leaf: leaf[0], batches)
    if count == 1:
        return make(first)
    zeros = jax.tree.map(lambda made: jnp.zeros(made.shape, made.dtype), jax.eval_shape(make, first))
    return jax.lax.scan(lambda total, batch: (jax.tree.map(jnp.add, total, make(batch)), None), zeros, batches)[0]
