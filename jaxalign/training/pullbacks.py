"""Gradients of several objectives from one forward pass: a pull-back each, then one direction for all.

    L_i = Σ weight · decided_i · loss(votes_i) / Σ weight            annotator i gives the labels; its ties say nothing
    g_i = ∇ L_i,    H_ij = ⟨g_i, g_j⟩,    a = combiner(H),    direction = Σ a_i g_i

Objectives see the same log-probs and differ in their labels alone, so the policy is run once and its linearisation is
transposed once an objective: 1 + 2o passes through the layers in place of 3o, and o trees of gradients in memory. All
sums run over arrays as a whole, wherever their pieces lie, so H is that of the gradients of the global batch.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.contracts.combiner import by_objective, explained
from jaxalign.contracts.traced import coefficients, losses
from jaxalign.training.views import Seen, View
from jaxalign.types import Combiner, Params


def each_objective(
    view: View[Seen], seen_of: Callable[[Params], Seen], params: Params, share: Float[Array, " b"], objectives: int
) -> tuple[Params, Float[Array, " o"], Seen]:
    """The gradients g_i, one behind the other along a first axis of every array, the values L_i, and what losses see.

    `share` is each group's weight over that of the whole batch: values and gradients of microbatches add up.
    """

    def varying(params: Params) -> tuple[Float[Array, "b r k"], Seen]:
        seen = seen_of(params)
        return view.varying(seen), seen

    computed, pull_back, seen = jax.vjp(varying, params, has_aux=True)

    def value(computed: Float[Array, "b r k"], index: int) -> Float[Array, ""]:
        labels = seen.labels.of_annotator(index)
        counts = share * labels.decided[:, 0]
        alone = dataclasses.replace(view.at(seen, computed), labels=labels)
        return jnp.where(counts > 0, losses(view.loss, alone) * counts, 0.0).sum()

    values, slopes = zip(*(jax.value_and_grad(value)(computed, index) for index in range(objectives)), strict=True)
    # A loop, so that the program holds one backward pass and memory the temporaries of one.
    gradients = jax.lax.map(lambda slope: pull_back(slope)[0], jnp.stack(slopes))
    return gradients, jnp.stack(values), seen


def gram(gradients: Params) -> Float[Array, "o o"]:
    """Inner products of the objectives' gradients over all parameters, in fp32."""

    def of(leaf: Float[Array, "o ..."]) -> Float[Array, "o o"]:
        # Products and a sum: as a product of matrices TPUs would round its operands to bf16.
        return (leaf[:, None] * leaf[None]).sum(tuple(range(2, leaf.ndim + 1)), dtype=jnp.float32)

    return jnp.stack([of(leaf) for leaf in jax.tree.leaves(gradients)]).sum(0)


def combined(combiner: Combiner, gradients: Params, values: Float[Array, " o"]) -> tuple[Params, dict[str, Array]]:
    """The direction Σ a_i g_i, and metrics: the objective Σ a_i L_i that it descends, and what there is of each."""
    products = gram(gradients)
    shares = coefficients(combiner, products)

    def direction(leaf: Float[Array, "o ..."]) -> Float[Array, "..."]:
        # Term by term: XLA's CPU compiler sums over a leading axis some forty times slower.
        terms = (share * gradient for share, gradient in zip(shares, leaf, strict=True))
        return functools.reduce(jnp.add, terms)

    norms = jnp.sqrt(jnp.diagonal(products))
    columns = {"loss": values, "grad_norm": norms, "coefficients": shares}
    each = {key: one for name, column in columns.items() for key, one in by_objective(name, column).items()}
    told = {"loss": (shares * values).sum(), **each, **_cosines(products, norms), **explained(combiner, products)}
    return jax.tree.map(direction, gradients), told


def _cosines(products: Float[Array, "o o"], norms: Float[Array, " o"]) -> dict[str, Array]:
    """Of the angle between the gradients of any two objectives; 0 of a gradient that is 0."""
    sizes = norms[:, None] * norms[None]
    cosines = products / jnp.where(sizes > 0, sizes, 1.0)
    pairs = itertools.combinations(range(len(norms)), 2)
    return {f"cosine/objectives_{i}_{j}": cosines[i, j] for i, j in pairs}
