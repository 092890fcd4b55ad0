"""Combiners of objectives: what each one obeys, discovered per file, then values by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_examples import examples, named
from made_gradients import gram

import jaxalign.objectives
from jaxalign.contracts.traced import coefficients
from jaxalign.objectives.weighted_sum import WeightedSum
from jaxalign.types import Combiner

COMBINERS = examples(jaxalign.objectives, Combiner, least=5)


@pytest.fixture(params=COMBINERS.values(), ids=named)
def combiner(request):
    return request.param


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0, 1e6])
def test_one_finite_coefficient_an_objective_whatever_the_gradients(combiner, scale):
    given = gram(combiner, scale)
    found = coefficients(combiner, given)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(jax.jit(combiner)(given), found, rtol=1e-6)  # fusion may reassociate a sum


def test_gradients_that_agree_are_not_turned_round(combiner):
    """Where all objectives have one gradient, the direction goes its way."""
    ones = jnp.ones_like(gram(combiner))
    assert float(combiner(ones).sum()) > 0


def test_equal_combiners_are_equal_values(combiner):
    twin = dataclasses.replace(combiner)
    assert (twin, hash(twin)) == (combiner, hash(combiner))
    assert list(getattr(combiner, "problems", list)()) == []


def test_a_weighted_sum_has_its_weights_whatever_the_gradients():
    found = WeightedSum((0.8, 0.2))
    assert found.objectives == 2
    for seed in range(3):
        np.testing.assert_array_equal(found(gram(found, seed=seed)), np.float32([0.8, 0.2]))


@pytest.mark.parametrize("weights", [(), (0.0, 0.0), (1.0, -0.5), (float("nan"), 1.0)])
def test_weights_that_say_nothing_are_named(weights):
    (sentence,) = WeightedSum(weights).problems()
    assert "weights" in sentence
