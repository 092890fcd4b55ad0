"""Products of activations with matrices, and their derivatives where JAX's own are not the cheapest.

Letters besides those of `jaxalign.types`: r rank of a low-rank difference, t tokens of all rows.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.mesh.layout import Layout
from jaxalign.models.low_rank import LowRank


@dataclass(frozen=True)
class Contraction:
    """einsum("ns<inputs>,<inputs><outputs>->ns<outputs>", x, weight) in the dtype of x: on one device, or on a `layout`
    that knows the weight's axes by `names`."""

    subscripts: str
    layout: Layout | None = None
    names: tuple[str | None, ...] = ()

    def __call__(self, x: Float[Array, "n s ..."], weight: Float[Array, "..."] | LowRank) -> Float[Array, "n s ..."]:
        """The product; gradients of a low-rank difference never make that of the matrix that it changes."""
        if isinstance(weight, LowRank):
            return adapted(self, weight.scale, x, weight.base, weight.a, weight.b)
        weight = weight.astype(x.dtype)
        if self.layout is None:
            return product(self.subscripts, x, weight)
        return self.layout.contract(self.subscripts, x, weight, self.names)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def product(subscripts: str, x: Float[Array, "n s ..."], weight: Float[Array, "..."]) -> Float[Array, "n s ..."]:
    """einsum(subscripts, x, weight) of "ns<inputs>,<inputs><outputs>->ns<outputs>", on one device.

    JAX's own derivative makes the weight's gradient as the transpose of gradientᵀ · x, and XLA's CPU compiler, to undo
    that, copies the gradient of every product transposed, at strides: a seventh of a training step. Here it is
    xᵀ · gradient. The price is `jax.jvp`: derivatives of custom_vjp functions are backwards only.
    """
    if x.ndim == 3:
        return jnp.einsum(subscripts, x, weight)
    # a contraction over two axes, for which the same compiler would copy both operands transposed
    inputs = math.prod(x.shape[2:])
    return x.reshape(*x.shape[:2], inputs) @ weight.reshape(inputs, *weight.shape[x.ndim - 2 :])


def _product(subscripts: str, x: Array, weight: Array) -> tuple[Array, tuple[Array, Array]]:
    return product(subscripts, x, weight), (x, weight)


def _pulled_back(subscripts: str, residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, weight = residuals
    # plain matrices: for contractions over two axes, tokens of rows here, XLA would transpose after all
    tokens, inputs = math.prod(x.shape[:2]), math.prod(x.shape[2:])
    rows, made, matrix = x.reshape(tokens, inputs), gradient.reshape(tokens, -1), weight.reshape(inputs, -1)
    of_input = jax.lax.dot_general(made, matrix, (((1,), (1,)), ((), ())))
    of_weight = jax.lax.dot_general(rows, made, (((0,), (0,)), ((), ())))
    return of_input.reshape(x.shape), of_weight.reshape(weight.shape)


product.defvjp(_product, _pulled_back)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def adapted(
    contraction: Contraction,
    scale: float,
    x: Float[Array, "n s ..."],
    base: Any,
    a: Float[Array, "... r"],
    b: Float[Array, "r ..."],
) -> Float[Array, "n s ..."]:
    """x · (base + scale · A B); `base`, an array or `Quantised`, is frozen and has no gradient.

    The derivative of the sum would make the gradient of the whole matrix, tokens · inputs · outputs multiply-adds, a
    third of a training step, and then project it. Through the rank, ∂A = scale · xᵀ (gradient · Bᵀ) and
    ∂B = scale · (x A)ᵀ gradient, it takes 2 r tokens · (inputs + outputs) of them.
    """
    return contraction(x, LowRank(base, a, b, scale).dense())


def _adapted(
    contraction: Contraction, scale: float, x: Array, base: Any, a: Array, b: Array
) -> tuple[Array, tuple[Any, ...]]:
    return adapted(contraction, scale, x, base, a, b), (x, base, a, b)


def _back_through_rank(
    contraction: Contraction, scale: float, residuals: tuple[Any, ...], gradient: Array
) -> tuple[Array, None, Array, Array]:
    x, base, a, b = residuals
    # summed once more: kept from the forward pass, every layer's sum would lie beside its base
    weight = LowRank(base, a, b, scale).dense()
    (of_input,) = jax.vjp(lambda x: contraction(x, weight), x)[1](gradient)

    taken, made = (part.split(",")[0] for part in contraction.subscripts.split("->"))
    if contraction.layout is None:  # plain matrices, as above; on a mesh rows and columns are split apart
        x, gradient = (each.reshape(-1, *each.shape[2:]) for each in (x, gradient))
        taken, made = (letters.replace("ns", "t") for letters in (taken, made))
    tokens = "t" if contraction.layout is None else "ns"
    inputs, outputs = taken.removeprefix(tokens), made.removeprefix(tokens)
    through_a = jnp.einsum(f"{taken},{inputs}r->{tokens}r", x, a.astype(x.dtype))
    through_b = jnp.einsum(f"{made},r{outputs}->{tokens}r", gradient, b.astype(x.dtype))
    of_a = jnp.einsum(f"{taken},{tokens}r->{inputs}r", x, through_b)
    of_b = jnp.einsum(f"{tokens}r,{made}->r{outputs}", through_a, gradient)
    return of_input, None, scale * of_a.astype(a.dtype), scale * of_b.astype(b.dtype)


adapted.defvjp(_adapted, _back_through_rank)
