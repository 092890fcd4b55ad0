"""Losses, combiners and blends of what comes in bf16: computed in fp32, discovered per file."""

import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from made_examples import examples, named
from made_gradients import gram
from made_logps import logps, responses_of
from made_scores import drawn

import jaxalign.losses
import jaxalign.objectives
import jaxalign.references
from jaxalign.contracts.scores import GroupScores, ScoreLoss
from jaxalign.contracts.traced import coefficients
from jaxalign.references.blended import Blended, blended
from jaxalign.types import Combiner, GroupLogps, Loss, Reference

LOSSES = examples(jaxalign.losses, Loss, least=30)
SCORE_LOSSES = examples(jaxalign.losses, ScoreLoss, least=4)
COMBINERS = examples(jaxalign.objectives, Combiner, least=5)
REFERENCES = examples(jaxalign.references, Reference, least=2)

EXTREMES = (0.0, -1e4, 1e4)
"""Nats by which one token is off."""
BF16 = 2.0**-8
"""Rounding of bf16, relative."""


def in_bf16(tree):
    """Every float rounded, labels and weights among them."""
    floats = lambda leaf: jnp.issubdtype(leaf.dtype, jnp.floating)  # noqa: E731
    return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16) if floats(leaf) else leaf, tree)


def both_ways(loss, field: str, given):
    """(values, gradient with respect to `field`) of what is given in bf16, and of the same numbers in fp32."""

    def at(seen, varying):
        values = loss(dataclasses.replace(seen, **{field: varying}))
        return values.sum(), values

    def of(seen, varying):
        (_, values), slopes = jax.value_and_grad(lambda varying: at(seen, varying), has_aux=True)(varying)
        return values, slopes

    def one(each):
        # unflattened as it is: only the constructor widens
        wide = dataclasses.replace(each)
        return of(each, getattr(each, field)), of(wide, getattr(wide, field))

    return jax.jit(lambda given: jax.lax.map(one, given))(given)


def check(narrow, wide) -> None:
    (values, slopes), (expected, gradient) = narrow, wide
    assert values.dtype == jnp.float32
    assert slopes.dtype == jnp.bfloat16
    for each in (values, expected, gradient, slopes.astype(jnp.float32)):
        assert np.isfinite(np.asarray(each)).all()
    np.testing.assert_allclose(values, expected, rtol=2e-6, atol=1e-7)  # fusion may reassociate a sum
    np.testing.assert_allclose(slopes.astype(jnp.float32), gradient, rtol=BF16, atol=1e-7)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=named)
def test_losses_of_log_probs(loss):
    x = logps(responses=responses_of(loss))
    off = [dataclasses.replace(x, tokens=x.tokens.at[:, 0, 0].add(nats)) for nats in EXTREMES]
    check(*both_ways(loss, "tokens", in_bf16(jax.tree.map(lambda *leaves: jnp.stack(leaves), *off))))


@pytest.mark.parametrize("loss", SCORE_LOSSES.values(), ids=named)
def test_losses_of_scores(loss):
    x = drawn(loss)
    off = [dataclasses.replace(x, outputs=x.outputs.at[:, 0, 0].add(nats)) for nats in EXTREMES]
    check(*both_ways(loss, "outputs", in_bf16(jax.tree.map(lambda *leaves: jnp.stack(leaves), *off))))


def test_what_losses_see_is_fp32_and_otherwise_as_it_was_given():
    """Of fp64 too, which games compute in."""
    x, scores = logps(), drawn(next(iter(SCORE_LOSSES.values())))
    for seen in (x, scores):
        wide = dataclasses.replace(in_bf16(seen))
        for here, there in zip(jax.tree.leaves(wide), jax.tree.leaves(in_bf16(seen)), strict=True):
            assert here.dtype == (jnp.float32 if there.dtype == jnp.bfloat16 else there.dtype)
            np.testing.assert_array_equal(here, there.astype(here.dtype))
        for here, there in zip(jax.tree.leaves(dataclasses.replace(seen)), jax.tree.leaves(seen), strict=True):
            assert here is there
    assert isinstance(x, GroupLogps)
    assert isinstance(scores, GroupScores)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("combiner", COMBINERS.values(), ids=named)
def test_combiners(combiner, scale):
    given = gram(combiner, scale).astype(jnp.bfloat16)
    found = coefficients(combiner, given)
    assert found.dtype == combiner(given).dtype == jnp.float32
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found, coefficients(combiner, given.astype(jnp.float32)))


@pytest.mark.parametrize("nats", EXTREMES)
@pytest.mark.parametrize("reference", REFERENCES.values(), ids=named)
def test_references(reference, nats):
    """Log-prob sums of the policies that an anchor is made of, as a model in bf16 may have them."""
    members = reference.members((4, 2, 0)) if isinstance(reference, Blended) else (0,)
    sums = np.random.default_rng(0).normal(-1e2, 1e1, (len(members), 5, 3))
    sums[:1, :, 0] += nats
    narrow = sums.astype(ml_dtypes.bfloat16)
    table = dict(zip(members, narrow, strict=True))
    wide = dict(zip(members, narrow.astype(np.float32), strict=True))
    found = blended(reference, members, table.__getitem__, (5, 3))
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found, blended(reference, members, wide.__getitem__, (5, 3)))
