"""The products of layers on one device: einsum's values and gradients, weights' gradients written as they lie."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxalign.models.layers import contract
from jaxalign.models.low_rank import LowRank
from jaxalign.models.products import Contraction, product
from jaxalign.models.remat import REMAT

CASES = {"nsd,df->nsf": (12, 20), "nsd,dkh->nskh": (12, 3, 5), "nskh,khd->nsd": (3, 5, 12)}
"""Subscripts that the layers use → shape of the weight."""


def operands(subscripts: str, dtype: str = "float32") -> tuple[jax.Array, jax.Array]:
    shape = CASES[subscripts]
    of_input = shape[:1] if subscripts.startswith("nsd") else shape[:2]
    x, w = jax.random.split(jax.random.key(len(shape)))
    return jax.random.normal(x, (4, 7, *of_input), dtype), jax.random.normal(w, shape, dtype)


def gradients(run, x: jax.Array, weight: jax.Array):
    """Of a sum that no element of the result is linear in."""
    return jax.grad(lambda x, w: jnp.sin(run(x, w).astype(jnp.float32)).sum(), (0, 1))(x, weight)


def assert_close(found: jax.Array, wanted: jax.Array, share: float) -> None:
    """Within a share of the largest value: sums of products, taken in another order."""
    assert found.dtype == wanted.dtype
    wanted = np.asarray(wanted, np.float64)
    np.testing.assert_allclose(np.asarray(found, np.float64), wanted, rtol=0, atol=share * np.abs(wanted).max())


@pytest.mark.parametrize("run", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("subscripts", CASES)
def test_values_and_gradients_are_those_of_einsum(subscripts, run) -> None:
    made, plain = partial(product, subscripts), partial(jnp.einsum, subscripts)
    given = operands(subscripts)
    assert_close(run(made)(*given), run(plain)(*given), 2e-6)
    for found, wanted in zip(run(partial(gradients, made))(*given), gradients(plain, *given), strict=True):
        assert_close(found, wanted, 2e-6)


@pytest.mark.parametrize("subscripts", CASES)
def test_bf16_stays_bf16(subscripts) -> None:
    given = operands(subscripts, "bfloat16")
    plain = gradients(partial(jnp.einsum, subscripts), *given)
    for found, wanted in zip(gradients(partial(product, subscripts), *given), plain, strict=True):
        assert_close(found, wanted, 2**-6)  # partial sums are rounded to 8 bits, in two orders


@pytest.mark.parametrize("subscripts", CASES)
def test_mapped_over_weights_as_one_by_one(subscripts) -> None:
    x, weight = operands(subscripts)
    weights = jnp.stack([weight, 2 * weight, -weight])
    run = partial(gradients, partial(product, subscripts), x)
    for found, wanted in zip(jax.vmap(run)(weights), map(jnp.stack, zip(*map(run, weights), strict=True)), strict=True):
        assert_close(found, wanted, 2e-6)


@pytest.mark.parametrize("remat", REMAT)
def test_a_scan_of_products_gives_the_same_gradient_whatever_is_kept(remat) -> None:
    x = operands("nsd,df->nsf")[0]
    stack = 0.2 * jax.random.normal(jax.random.key(9), (5, 12, 12))

    def loss(run, stack: jax.Array) -> jax.Array:
        def layer(x: jax.Array, w: jax.Array) -> tuple[jax.Array, None]:
            return x + jnp.tanh(run(x, w)), None

        kept = layer if REMAT[remat] is None else jax.checkpoint(layer, policy=REMAT[remat], prevent_cse=False)
        return jnp.sin(jax.lax.scan(kept, x, stack)[0]).sum()

    def named(x: jax.Array, w: jax.Array) -> jax.Array:
        kernel = nnx.Param(w, logical=(None, None))
        return contract("nsd,df->nsf", x, kernel, None)

    found = jax.jit(jax.grad(partial(loss, named)))(stack)
    assert_close(found, jax.grad(partial(loss, partial(jnp.einsum, "nsd,df->nsf")))(stack), 2e-6)


@pytest.mark.parametrize("subscripts", CASES)
def test_no_gradient_is_transposed(subscripts) -> None:
    """einsum's own derivative is: XLA's CPU compiler then copies the gradient of the product at strides."""

    def transposes(run) -> int:
        return jax.jit(partial(gradients, run)).lower(*operands(subscripts)).as_text().count("stablehlo.transpose")

    assert transposes(partial(product, subscripts)) == 0
    assert transposes(partial(jnp.einsum, subscripts)) > 0


def low_rank(subscripts: str, rank: int = 2) -> LowRank:
    shape = CASES[subscripts]
    inputs = 1 if subscripts.startswith("nsd") else 2
    a, b = jax.random.split(jax.random.key(7))
    base = operands(subscripts)[1]
    return LowRank(
        base, jax.random.normal(a, (*shape[:inputs], rank)), jax.random.normal(b, (rank, *shape[inputs:])), 1.5
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("subscripts", CASES)
def test_a_difference_has_through_its_rank_the_gradients_of_the_sum(subscripts, dtype) -> None:
    x, weight = operands(subscripts, dtype)[0], low_rank(subscripts)
    contraction = Contraction(subscripts)

    def through(x: jax.Array, parts: tuple[jax.Array, jax.Array]) -> jax.Array:
        return jnp.sin(contraction(x, LowRank(weight.base, *parts, weight.scale)).astype(jnp.float32)).sum()

    def summed(x: jax.Array, parts: tuple[jax.Array, jax.Array]) -> jax.Array:
        dense = LowRank(weight.base, *parts, weight.scale).dense().astype(dtype)
        return jnp.sin(jnp.einsum(subscripts, x, dense).astype(jnp.float32)).sum()

    given = x, (weight.a, weight.b)
    found, wanted = (jax.tree.leaves(jax.jit(jax.grad(run, (0, 1)))(*given)) for run in (through, summed))
    for one, other in zip(found, wanted, strict=True):
        assert_close(one, other, 3e-6 if dtype == "float32" else 2**-5)


def test_a_frozen_matrix_costs_no_gradient_of_its_own() -> None:
    """What comes back through it is one product of its size; the derivative of the sum has two."""
    width, tokens, rank = 64, 256, 2
    x, a, b = jnp.ones((1, tokens, width)), jnp.ones((width, rank)), jnp.ones((rank, width))
    contraction, base = Contraction("nsd,df->nsf"), jnp.ones((width, width))

    def flops(run) -> float:
        gradient = jax.jit(jax.grad(lambda x, a, b: jnp.square(run(x, LowRank(base, a, b, 1.0))).sum(), (0, 1, 2)))
        return gradient.lower(x, a, b).compile().cost_analysis()["flops"]

    whole = 2 * tokens * width * width
    sums = 2 * 2 * rank * width * width  # of the difference, forward and back, and what the sum's gradient is cut to
    through_rank = 4 * 2 * rank * tokens * width
    assert flops(contraction) < 2 * whole + sums + through_rank + 0.2 * whole
    assert flops(lambda x, weight: contraction(x, weight.dense())) > 3 * whole
