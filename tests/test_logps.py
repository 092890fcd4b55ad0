"""Log-probs: the contract, as relations between ways of computing the same numbers on a tiny Llama."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_groups import groups, rollouts
from made_models import MESHES, ONE, mesh, place, tiny

from jaxalign.data.groups import RolledGroups
from jaxalign.mesh.sharding import RULES
from jaxalign.training.logps import Scorer, logp_sums, one_group_a_prompt, token_logps
from jaxalign.training.rows import RowShape, pack
from jaxalign.types import GroupLogps, Groups, Rollouts

CLOSE = {"rtol": 2e-5, "atol": 2e-5}
"""Per token: the same fp32 products in another order, a few hundred roundings of 6e-8 through values of size 1 to 6."""
CLOSE_SUMS = {"rtol": 2e-5, "atol": 1e-4}
"""The same for sums over at most six tokens."""

EOS = 2
SHAPE = RowShape(row=32, scored=16, response=8)
"""Holds every pair below: up to 7 prompt tokens and twice 6 of response."""
PAIRS = groups([0, 2, 1, 2, 0], [[0, 1], [3, 1], [2, 0], [0, 2], [3, 2]])


@pytest.fixture(scope="module")
def data() -> Rollouts:
    """Responses of 1 to 6 tokens, every one ended by its end-of-turn token but those of the last prompt."""
    made = rollouts()
    tokens = made.tokens.copy()
    np.put_along_axis(tokens[:2], made.lengths[:2, :, None] - 1, EOS, axis=2)
    return dataclasses.replace(made, tokens=tokens, finished=np.arange(3)[:, None] < np.full((3, 4), 2))


@pytest.fixture(scope="module")
def score(model):
    """token_logps, compiled once a shape."""
    return jax.jit(partial(token_logps, model))


@pytest.fixture(scope="module")
def packed(data):
    return pack(RolledGroups(data, PAIRS), np.arange(5), SHAPE, {})


@pytest.fixture(scope="module")
def in_pairs(score, params, packed):
    return np.asarray(score(params, packed.rows, packed.mask))


@pytest.fixture(scope="module")
def direct(model, params, data):
    """[b m t] in float64: prompt and response alone in a causal row, scores of the whole vocabulary, no packing."""
    count, samples, longest = data.tokens.shape
    rows = np.zeros((count * samples, 16), np.int32)
    for index, (prompt, sample) in enumerate(np.ndindex(count, samples)):
        trunk, length = data.prompt_lengths[prompt], data.lengths[prompt, sample]
        rows[index, :trunk] = data.prompt_tokens[prompt, :trunk]
        rows[index, trunk : trunk + length] = data.tokens[prompt, sample, :length]
    position = np.tile(np.arange(16), (len(rows), 1))
    causal = np.tile(np.tril(np.ones((16, 16), bool)), (len(rows), 1, 1))
    hidden = np.float64(jax.jit(model.hidden)(params, jnp.asarray(rows), jnp.asarray(position), jnp.asarray(causal)))
    logits = hidden @ np.float64(model.head(params)).T
    logps = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    found = np.zeros((count, samples, longest))
    for index, (prompt, sample) in enumerate(np.ndindex(count, samples)):
        for token in range(data.lengths[prompt, sample]):
            predecessor = data.prompt_lengths[prompt] + token - 1
            found[prompt, sample, token] = logps[index, predecessor, data.tokens[prompt, sample, token]]
    return found


def of_groups(table: np.ndarray, pairs: Groups) -> np.ndarray:
    """[b m …] → [g r …]"""
    return table[pairs.prompt[:, None], pairs.responses]


def test_a_token_is_scored_from_its_own_predecessor(in_pairs, direct):
    np.testing.assert_allclose(in_pairs[..., :6], of_groups(direct, PAIRS), **CLOSE)


def test_exactly_the_response_tokens_are_scored_and_the_end_of_turn_once(in_pairs, data):
    lengths = of_groups(data.lengths, PAIRS)
    expected = np.arange(SHAPE.response) < lengths[..., None]  # nothing of the prompt, nothing beyond the end
    np.testing.assert_array_equal(in_pairs != 0, expected)
    assert (in_pairs[expected] < 0).all()


def test_a_cut_response_is_its_finished_twin_without_the_end_of_turn(score, params, data, packed, in_pairs):
    longer = of_groups(data.lengths, PAIRS) > 1
    cut = dataclasses.replace(data, lengths=np.maximum(data.lengths - 1, 1))
    batch = pack(RolledGroups(cut, PAIRS), np.arange(5), SHAPE, {})
    found = np.asarray(score(params, batch.rows, batch.mask))
    last = np.take_along_axis(in_pairs, of_groups(data.lengths, PAIRS)[..., None] - 1, axis=2)[..., 0]
    np.testing.assert_allclose(found.sum(-1)[longer], (in_pairs.sum(-1) - last)[longer], **CLOSE_SUMS)


def test_a_pair_in_one_row_equals_two_rows(score, params, data, in_pairs):
    apart = groups(list(np.repeat(PAIRS.prompt, 2)), PAIRS.responses.reshape(-1, 1).tolist())
    batch = pack(RolledGroups(data, apart), np.arange(10), SHAPE, {})
    found = np.asarray(score(params, batch.rows, batch.mask))
    np.testing.assert_allclose(found.reshape(in_pairs.shape), in_pairs, **CLOSE)


def test_a_whole_prompt_in_one_row_equals_its_pairs(score, params, data, direct):
    batch = pack(one_group_a_prompt(data), np.arange(3), RowShape(40, 32, 8), {})
    np.testing.assert_allclose(score(params, batch.rows, batch.mask)[..., :6], direct, **CLOSE)


def test_padding_changes_nothing(score, params, data, in_pairs):
    batch = pack(RolledGroups(data, PAIRS), np.arange(5), RowShape(row=48, scored=24, response=16), {})
    found = np.asarray(score(params, batch.rows, batch.mask))
    np.testing.assert_allclose(found[..., :8], in_pairs, **CLOSE)
    assert not found[..., 8:].any()


def test_what_stands_on_padding_changes_nothing(score, params, packed, in_pairs):
    rows = packed.rows
    noise = np.random.default_rng(0).integers(0, 259, rows.tokens.shape).astype(np.int32)
    noisy = dataclasses.replace(
        rows,
        tokens=np.where(rows.group < 0, noise, rows.tokens),
        position=np.where(rows.group < 0, 3, rows.position),
        target=np.where(rows.slot < 0, 7, rows.target),
    )
    np.testing.assert_array_equal(score(params, noisy, packed.mask), in_pairs)


def test_batch_order_changes_nothing(score, params, data, in_pairs):
    order = np.array([3, 0, 4, 2, 1])
    batch = pack(RolledGroups(data, PAIRS), order, SHAPE, {})
    np.testing.assert_allclose(score(params, batch.rows, batch.mask), in_pairs[order], **CLOSE)


def test_company_changes_nothing_and_empty_rows_score_nothing(score, params, data, in_pairs):
    batch = pack(RolledGroups(data, PAIRS), np.array([-1, 1, -1, 4, -1]), SHAPE, {})
    found = np.asarray(score(params, batch.rows, batch.mask))
    np.testing.assert_allclose(found[[1, 3]], in_pairs[[1, 4]], **CLOSE)
    assert not found[[0, 2, 4]].any()


def test_swapping_the_branches_swaps_their_log_probs(score, params, data, in_pairs):
    swapped = dataclasses.replace(PAIRS, responses=PAIRS.responses[:, ::-1])
    batch = pack(RolledGroups(data, swapped), np.arange(5), SHAPE, {})
    np.testing.assert_allclose(score(params, batch.rows, batch.mask), in_pairs[:, ::-1], **CLOSE)


def test_bf16_is_close_and_its_log_probs_are_fp32(params, packed, in_pairs):
    half = tiny(compute_dtype="bfloat16")
    found = jax.jit(partial(token_logps, half))(params, packed.rows, packed.mask)
    assert found.dtype == jnp.float32
    # 8 bits of mantissa (0.004) through about ten products in a row, scores of size 1
    assert np.abs(np.asarray(found) - in_pairs)[packed.mask].mean() < 0.02


def gradient(model, params, batch):
    return jax.jit(jax.value_and_grad(lambda params, batch: jnp.sin(logp_sums(model, params, batch)).sum()))(
        params, batch
    )


def test_remat_changes_neither_log_probs_nor_gradients(params, packed, in_pairs):
    """Of the two policies here, against none in the tests of models."""
    value, expected = gradient(tiny().on(ONE, RULES, "full"), params, packed)
    again, found = gradient(tiny().on(ONE, RULES, "dots"), params, packed)
    np.testing.assert_allclose([value, again], np.full(2, np.sin(in_pairs.sum(-1)).sum()), rtol=1e-4, atol=1e-4)
    assert np.abs(expected["head"]).max() > 0.01
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, expected)


def test_a_policy_that_is_its_reference_has_log_ratio_zero_exactly(model, params, packed):
    @jax.jit
    def ratio(policy, reference, batch):
        tokens = token_logps(model, policy, batch.rows, batch.mask)
        sums = GroupLogps(tokens, batch.mask, None, None, batch.labels).sums
        return sums - logp_sums(model, reference, batch)

    np.testing.assert_array_equal(ratio(params, params, packed), np.zeros((5, 2)))  # one path


# ----------------------------------------------------------------------------------------------------------------------
# Scorer


@pytest.fixture(scope="module")
def scorer(model):
    return Scorer(model, ONE, 2)


@pytest.fixture(scope="module")
def scored(scorer, params, data):
    return scorer.groups(params, RolledGroups(data, PAIRS))


def test_scorer_sums_over_tokens(scored, direct):
    np.testing.assert_allclose(scored, of_groups(direct, PAIRS).sum(-1), **CLOSE_SUMS)


def test_scorer_says_what_is_done_after_each_batch_the_short_last_one_too(scorer, scored, params, data):
    heard = []
    again = scorer.groups(params, RolledGroups(data, PAIRS), heard.append)
    assert heard == [2, 4, 5]
    np.testing.assert_array_equal(again, scored)


def test_scorer_of_no_groups_is_an_empty_table(scorer, params, data):
    none = jax.tree.map(lambda values: values[:0], PAIRS)
    assert scorer.groups(params, RolledGroups(data, none)).shape == (0, 2)


def test_scorer_of_rollouts_scores_each_prompt_with_all_its_responses(scorer, params, data, direct):
    np.testing.assert_allclose(scorer.rollouts(params, data), direct.sum(-1), **CLOSE_SUMS)


@pytest.mark.parametrize("name", ["2x2x2", "1x1x8"])
def test_eight_devices_equal_one(name, model, params, data, scored):
    devices = mesh(name)
    found = Scorer(model, devices, 3).groups(place(model, params, devices), RolledGroups(data, PAIRS))
    np.testing.assert_allclose(found, scored, **CLOSE_SUMS)


def test_scorer_batches_are_whole_on_every_shard(model):
    sizes = {name: Scorer(model, mesh(name), 3).batch_size for name in MESHES}
    assert sizes == {"8x1x1": 8, "2x2x2": 4, "1x8x1": 8, "1x1x8": 3}
