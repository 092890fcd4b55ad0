"""Attention in blocks is attention: values and gradients, with windows, soft-caps, trees, padding, odd lengths."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.ops.attention import Shown, Tree, attend
from jaxalign.ops.attention.blockwise import blockwise
from jaxalign.ops.attention.reference import dense

LENGTH, PADDING = 23, 3


def tree() -> Tree:
    """A trunk of 6, two branches of 9 and 5, and padding; then a row that is one branch of another shape."""
    branch = [0] * 6 + [1] * 9 + [2] * 5
    position = [*range(6), *range(6, 15), *range(6, 11)]
    first = [[0] * 20 + [-1] * PADDING, branch + [0] * PADDING, position + [0] * PADDING]
    second = [[0] * LENGTH, [0] * LENGTH, list(range(LENGTH))]
    return Tree(*(jnp.array([one, two], jnp.int32) for one, two in zip(first, second, strict=True)))


def operands(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = ((2, LENGTH, 2, 3, 4), (2, 2, 4, LENGTH), (2, 2, LENGTH, 4))
    return tuple(2 * jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes, strict=True))


@pytest.mark.parametrize("block", [5, 23])
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("cap", [None, 1.5])
@pytest.mark.parametrize("causal", [True, False])
def test_blocks_give_what_all_scores_at_once_give(block, window, cap, causal):
    ids, near = tree(), None if window is None else jnp.int32(window)
    real = (ids.group >= 0)[:, :, None, None, None]

    def whole(operands):
        return jnp.where(real, dense(*operands, ids.mask(near), 7.0, cap), 0)

    def parts(operands):
        return blockwise(block, causal, 7.0, cap, operands, (ids, ids), near)

    found, pull = jax.vjp(parts, operands())
    wanted, pull_wanted = jax.vjp(whole, operands())
    # fp32 sums of at most 23 terms in another order
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=2e-6)
    close(found, wanted)
    cotangent = jnp.where(real, jax.random.normal(jax.random.key(1), found.shape), 0)
    # gradients of size 10, of which small ones are what is left of sums that cancel
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=5e-5), pull(cotangent), pull_wanted(cotangent))


def test_padding_gets_zeros_and_gives_no_gradient():
    ids = tree()
    found = blockwise(5, True, 4.0, None, operands(), (ids, ids), None)
    assert np.all(found[0, -PADDING:] == 0)
    (gradient,) = jax.grad(lambda given: blockwise(5, True, 4.0, None, given, (ids, ids), None).sum(), argnums=(0,))(
        operands()
    )
    for leaf in jax.tree.leaves(gradient):
        assert np.isfinite(leaf).all()
    assert np.all(gradient[1][0, :, :, -PADDING:] == 0)
    assert np.all(gradient[2][0, :, -PADDING:] == 0)


def test_a_tree_sees_what_its_mask_shows():
    ids = tree()
    mask = np.asarray(ids.mask())
    assert mask[0, 15].nonzero()[0].tolist() == [*range(6), 15]  # the second branch: the trunk and itself
    assert mask[0, 8].nonzero()[0].tolist() == [*range(9)]
    assert not mask[0, -1].any()
    assert np.asarray(ids.mask(jnp.int32(3)))[1, 9].nonzero()[0].tolist() == [7, 8, 9]
    assert not np.triu(mask[0], 1).any()  # what is seen never lies to the right
    by_rule = attend(*operands(), ids, None, 4.0, None, None)
    by_mask = attend(*operands(), Shown(ids.mask(), ids.position), None, 4.0, None, None)
    np.testing.assert_allclose(by_rule, by_mask, rtol=1e-6)


def test_bf16_is_summed_in_fp32():
    ids = tree()
    given = operands(jnp.bfloat16)
    exact = dense(*(each.astype(jnp.float32) for each in given), ids.mask(), 4.0, None)
    found = blockwise(5, True, 4.0, None, given, (ids, ids), None).astype(jnp.float32)
    # the shares and the result are rounded to 8 bits each
    assert np.abs(found - exact)[0, :20].max() < 0.02 * np.abs(exact).max()
