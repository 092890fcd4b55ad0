"""Keys and values in eight bits: what they stand for, that engines draw the same of them, and how far it moves."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_families import loaded
from made_models import ONE, mesh, nudged, place
from made_rollouts import PROMPTS, assert_same_answers

from jaxalign.bench.precision import cached, differences, told
from jaxalign.errors import ModelError
from jaxalign.models.geometric import Geometric
from jaxalign.models.tabular import TabularPolicy
from jaxalign.ops.attention import Apart, Behind, Rounded, Together, attend, rounded
from jaxalign.rollouts import seam
from jaxalign.rollouts.contract import Task
from jaxalign.rollouts.lockstep import Lockstep
from jaxalign.rollouts.sample import Sample
from jaxalign.rollouts.samplers import Temperature
from jaxalign.rollouts.slots import Slots
from jaxalign.types import Rollouts

KEY = jax.random.key(3)
SPEC = Sample(samples=3, max_tokens=6, engine=Lockstep("int8"))


def meant(kept: Rounded) -> jax.Array:
    return kept.codes.astype(jnp.float32) * kept.scale


def test_codes_of_a_head_by_hand():
    x = jnp.array([127.0, -63.6, 0.4, 0.0]).reshape(1, 1, 1, 4)
    made = rounded(x, axis=3)
    np.testing.assert_array_equal(made.codes.ravel(), [127, -64, 0, 0])
    assert made.scale.ravel() == pytest.approx([1.0])
    nothing = rounded(jnp.zeros((1, 1, 1, 4)), axis=3)
    np.testing.assert_array_equal(meant(nothing), 0)


@pytest.mark.parametrize("axis", [2, 3])
def test_nothing_is_off_by_more_than_half_a_scale_of_its_own_head_and_token(axis):
    x = jax.random.normal(KEY, (2, 3, 8, 8)) * jnp.array([1e-4, 1.0, 1e4])[None, :, None, None]
    made = rounded(x, axis)
    assert made.scale.shape[axis] == 1
    assert (jnp.abs(meant(made) - x) <= made.scale * 0.5001).all()


@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("progress", ["together", "apart"])
def test_attention_to_codes_is_attention_to_what_they_stand_for(progress, window, cap):
    b, n, k, g, h, p, t = 2, 4, 2, 3, 8, 5, 4
    keys = jax.random.split(KEY, 5)
    query = jax.random.normal(keys[0], (n, 1, k, g, h))
    key, value = (rounded(jax.random.normal(keys[i], s), a) for i, s, a in ((1, (n, k, h, t), 2), (2, (n, k, t, h), 3)))
    trunk = [rounded(jax.random.normal(keys[i], s), a) for i, s, a in ((3, (b, k, h, p), 2), (4, (b, k, p, h), 3))]
    far = {
        "together": Together(jnp.array([3, 5]), jnp.int32(2)),
        "apart": Apart(jnp.array([3, 5]), jnp.array([[1, 0, 1, 1]]), jnp.array([[1, 4, 2, 3]])),
    }[progress]
    seen = None if window is None else jnp.int32(window)
    found = attend(query, key, value, Behind(*trunk, far), seen, float(h), cap, None)
    exact = attend(query, meant(key), meant(value), Behind(*map(meant, trunk), far), seen, float(h), cap, None)
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def truth(model, params):
    return seam.rolled(SPEC.on(model, ONE, rows=12), params, PROMPTS, KEY)


def assert_alike(found: Rollouts, expected: Rollouts) -> None:
    """The same tokens. A number between two codes is rounded to the other where its sum was taken in another order: by
    that log-probs differ, and could tokens."""
    np.testing.assert_allclose(found.logps, expected.logps, atol=2e-3)
    assert_same_answers(dataclasses.replace(found, logps=expected.logps), expected)


def test_slots_draw_what_lockstep_draws(model, params, truth):
    slots = dataclasses.replace(SPEC, engine=Slots(kv_cache="int8"))
    assert_alike(seam.rolled(slots.on(model, ONE, rows=4), params, PROMPTS, KEY), truth)


def test_eight_devices_draw_what_one_draws(model, params, truth):
    on = mesh("2x2x2")
    assert_alike(seam.rolled(SPEC.on(model, on, rows=12), place(model, params, on), PROMPTS, KEY), truth)


@pytest.mark.parametrize("family", [pytest.param("llama", marks=pytest.mark.slow), "gemma3"])
def test_log_probs_move_little_and_a_cache_that_is_exact_moves_none(family):
    """Of random models, whose heads are as peaked as chance has it; `jaxalign bench precision` has a trained one."""
    model, params, _ = loaded(family)
    prompts = [[5, 6, 7], [3, 4, 5, 6, 7, 8]]
    task = Task(8, 12, Temperature(1.0), ())
    moved = {}
    for kind in ("exact", "int8"):
        pieces = list(Lockstep(kind).open(task, model, ONE, None, 16)(params, prompts, np.arange(2), KEY))
        moved[kind] = told(differences(model, params, prompts, pieces))
    assert moved["exact"]["nats_a_token_max"] < 1e-4
    assert 1e-5 < moved["int8"]["nats_a_token_mean"] < 0.02


def test_a_cache_of_codes_takes_a_byte_a_number_and_a_scale_a_head(model, params):
    shape = model.config
    heads = 2 * shape.layers * shape.kv_heads
    assert cached(model, Lockstep(), params) == heads * shape.head_dim * 4
    assert cached(model, Lockstep("int8"), params) == heads * (shape.head_dim + 4)


@pytest.mark.slow
def test_two_that_speak_together_keep_codes_each(model, params):
    both = {"policy": params, "anchor": nudged(params, 0.02, 1)}
    spoken = Geometric(model, 0.5).caching("int8")
    assert spoken.model.config.kv_cache == "int8"
    found = [
        seam.rolled(dataclasses.replace(SPEC, engine=engine).on(Geometric(model, 0.5), ONE, rows=6), both, PROMPTS, KEY)
        for engine in (Lockstep("int8"), Slots(kv_cache="int8"))
    ]
    assert_alike(*found)


def test_a_table_has_no_cache():
    table = TabularPolicy((0.5, 0.5)).open()
    with pytest.raises(ModelError, match="has no cache to keep as int8"):
        SPEC.on(table, ONE, rows=4)
    assert table.caching("exact") is table
