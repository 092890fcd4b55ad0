"""Continuous batching: the same answers as in lockstep, whoever sits where, and few rows that compute for nobody."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from made_families import loaded
from made_models import ONE, mesh, nudged, place, shardings
from made_rollouts import CLOSE, PROMPTS, assert_same_answers, prompt

from jaxalign.bench.rollout import Ending
from jaxalign.config.load import validate
from jaxalign.errors import ConfigError
from jaxalign.mesh.sharding import bytes_per_device
from jaxalign.rollouts import seam
from jaxalign.rollouts.contract import Task
from jaxalign.rollouts.geometric_mixture import GeometricMixture
from jaxalign.rollouts.lockstep import Lockstep
from jaxalign.rollouts.pools import rows_of
from jaxalign.rollouts.sample import Sample
from jaxalign.rollouts.slots import Seating, Slots
from jaxalign.types import Rollouts

EOS = 2
KEY = jax.random.key(7)


Hasty = functools.partial(Ending, stop=EOS)
"""Ends an answer at every token with a chance."""

SPEC = Sample(samples=3, max_tokens=6, sampler=Hasty(0.3))
SEVEN = (*PROMPTS, prompt("Tell me a longer story, please.", "long"), prompt("B", "short"))


@pytest.fixture(scope="module")
def truth(model, params) -> Rollouts:
    """In lockstep."""
    return seam.rolled(SPEC.on(model, ONE, rows=21), params, SEVEN, KEY)


def slots(spec: Sample, halvings: int = 2) -> Sample:
    return dataclasses.replace(spec, engine=Slots(halvings))


def whole(engine, task, model, params, asked) -> dict[str, np.ndarray]:
    """What an engine draws, in the order of the prompts."""
    pieces = list(engine.open(task, model, ONE, None, 5)(params, asked, np.arange(len(asked)), KEY))
    order = np.argsort(np.concatenate([piece.numbers for piece in pieces]))
    return {
        name: np.concatenate([getattr(piece, name) for piece in pieces])[order]
        for name in ("tokens", "lengths", "logps")
    }


@pytest.mark.parametrize(("rows", "halvings"), [(4, 1), (64, 2)])
def test_answers_are_those_of_lockstep_whoever_sits_where(model, params, truth, rows, halvings):
    """Rows that are no multiple of the samples, and more rows than answers."""
    found = seam.rolled(slots(SPEC, halvings).on(model, ONE, rows=rows), params, SEVEN, KEY)
    assert len(np.unique(truth.lengths)) > 3
    assert_same_answers(found, truth)


def test_eight_devices_draw_what_one_draws(model, params, truth):
    """Four pools, whose rows, prompts, heads and vocabulary are split; seven prompts leave one pool with one."""
    on = mesh("2x2x2")
    found = seam.rolled(slots(SPEC).on(model, on, rows=8), place(model, params, on), SEVEN, KEY)
    assert_same_answers(found, truth)


def test_what_is_not_wanted_is_left_out_and_the_rest_is_as_it_was(model, params, truth):
    wanted = np.array([6, 1, 5])
    shares = list(slots(SPEC).on(model, ONE, rows=4)(params, SEVEN, wanted, KEY))
    assert sorted(number for share in shares for number in share.numbers.tolist()) == sorted(wanted)
    for share in shares:
        np.testing.assert_array_equal(share.rollouts.tokens, truth.tokens[share.numbers])


@pytest.mark.parametrize(("chance", "limit"), [(0.6, 2), (0.3, 1)])
def test_samples_that_are_over_with_their_first_token(model, params, chance, limit):
    spec = Sample(samples=3, max_tokens=limit, sampler=Hasty(chance))
    expected = seam.rolled(spec.on(model, ONE, rows=21), params, SEVEN, KEY)
    assert (expected.lengths == 1).any()
    assert_same_answers(seam.rolled(slots(spec).on(model, ONE, rows=4), params, SEVEN, KEY), expected)


def test_a_place_is_given_away_when_every_row_has_left_it(model, params):
    """Many answers are over with their first token, and rows that have taken one still have to find it so."""
    spec = Sample(samples=3, max_tokens=6, sampler=Hasty(0.7))
    asked = tuple(prompt(chr(97 + number) * (1 + number), f"p{number}") for number in range(24))
    expected = seam.rolled(spec.on(model, ONE, rows=72), params, asked, KEY)
    assert_same_answers(seam.rolled(slots(spec).on(model, ONE, rows=4), params, asked, KEY), expected)


def test_windows_and_rotations_are_each_rows_own():
    """Rows at different tokens, of prompts of different lengths, under windows of 6 tokens, of two rotations."""
    family, weights, _ = loaded("gemma3")
    task = Task(samples=3, limit=10, sampler=Hasty(0.15), stop=(EOS,))
    asked = [list(range(3, 3 + length)) for length in (4, 11, 2, 7)]
    expected, found = (whole(engine, task, family, weights, asked) for engine in (Lockstep(), Slots()))
    assert len(np.unique(expected["lengths"])) > 3
    np.testing.assert_array_equal(found["lengths"], expected["lengths"])
    np.testing.assert_array_equal(found["tokens"], expected["tokens"])
    np.testing.assert_allclose(found["logps"], expected["logps"], **CLOSE)


def test_two_policies_that_speak_together_keep_a_cache_each(model, params):
    both = [GeometricMixture(each, share=0.4) for each in (SPEC, slots(SPEC))]
    other = nudged(params, 0.3, 1)
    expected, found = (seam.rolled(each.on(model, ONE, None, 4).beside(other), params, SEVEN[:3], KEY) for each in both)
    assert_same_answers(found, expected)


def test_rows_seldom_compute_for_nobody(model, params):
    """Answers of 1 to 30 tokens, 60 of them on 8 rows."""
    spec = Sample(samples=4, max_tokens=30, sampler=Hasty(0.12))
    asked = tuple(prompt(chr(97 + number) * (1 + number), f"p{number}") for number in range(15))
    shares = list(slots(spec).on(model, ONE, rows=8)(params, asked, np.arange(15), KEY))
    kept = sum(int(share.rollouts.lengths.sum()) for share in shares)
    computed = sum(float(share.notes["row_steps"].sum()) for share in shares)
    assert kept <= computed <= 1.15 * kept


def test_places_for_prompts():
    assert Seating.of(8, 3) == Seating(rows=8, places=8 + 2, new=2)
    assert Seating.of(64, 8) == Seating(rows=64, places=24 + 4, new=4)


def test_the_programs_are_lowered_for_a_mesh(model):
    on = mesh("2x2x2")
    shapes = jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        model.abstract(),
        shardings(model, on),
    )
    drawer = slots(SPEC).on(model, on, rows=8)
    read, draw, halve = drawer.programs(shapes, 20)
    assert [each.name for each in (read, draw, halve)] == ["rollout.prompts", "rollout", "rollout.halved"]
    assert drawer.calls(16).keys() == {each.name for each in (read, draw, halve)}
    assert "while" in draw.lower().as_text()
    # 4 pools of 2 rows: 6 tokens each; one prompt of 32 columns and its three samples
    assert (draw.work.tokens, draw.work.row, draw.work.cached) == (8 * 6, 32 + 6, 8)
    assert (read.work.tokens, read.work.rows_tokens) == (4 * 3, 4 * 32)
    assert read.lower().as_text()
    # all that lies there while rows are copied is counted, and of the copy the half that is left
    memory = halve.lower().compile().memory_analysis()
    state, (rows, _) = halve.arguments[1], jax.eval_shape(halve.function, *halve.arguments)
    assert memory.argument_size_in_bytes >= bytes_per_device(shapes) + bytes_per_device(jax.tree.leaves(state.cache))
    left, all_ = (
        [leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(own)]
        for own in (rows["own"], rows_of(state)["own"])
    )
    assert [2 * size for size in left] == all_
    assert memory.output_size_in_bytes >= sum(left) / on.size
    for never in (slots(SPEC, 0).on(model, on, rows=8), slots(SPEC).on(model, on, rows=4)):
        assert (
            [each.name for each in never.programs(shapes, 20)] == ["rollout.prompts", "rollout"] == [*never.calls(16)]
        )


def test_impossible_settings_are_named():
    assert list(Slots().problems()) == []
    assert [*Slots(-1).problems()] == ["halvings must not be negative, got -1"]
    with pytest.raises(ConfigError, match="halvings"):
        validate(slots(SPEC, -1))
