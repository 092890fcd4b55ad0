"""Layers with a window keep what it sees and no more, and decode as if they had kept everything."""

import dataclasses
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_families import loaded
from made_models import ONE
from made_rollouts import CLOSE

from jaxalign.models.model import Model, definitions
from jaxalign.ops.attention import Apart, Behind, Together, attend
from jaxalign.rollouts.contract import Task
from jaxalign.rollouts.lockstep import Lockstep, read_prompts
from jaxalign.rollouts.samplers import Temperature
from jaxalign.rollouts.slots import Slots
from jaxalign.types import Params

KEY = jax.random.key(5)


@lru_cache
def windowed(window: int) -> tuple[Model, Params]:
    """A model of layers with this window and of one without."""
    model, params, _ = loaded("gemma3")
    pattern = tuple(dataclasses.replace(each, window=each.window and window) for each in model.config.kinds)
    assert {each.window for each in pattern} == {None, window}
    config = dataclasses.replace(model.config, pattern=pattern)
    graphdef, stepper = definitions(config, None)
    return dataclasses.replace(model, config=config, graphdef=graphdef, stepper=stepper), params


def columns(model: Model, params: Params, before: int, room: int) -> dict[int | None, tuple[int, ...]]:
    """By window: columns that are kept of prompts' keys and values, and of the rows'."""
    prompts, lengths = jax.ShapeDtypeStruct((2, before), jnp.int32), jax.ShapeDtypeStruct((2,), jnp.int32)
    read = lambda params, *given: read_prompts(model, params, *given, rows=6, room=room)  # noqa: E731
    _, kept = jax.eval_shape(read, params, prompts, lengths)
    shapes = [
        tuple(each.shape[axis] for each, axis in zip((*trunk, *own), (3, 2, 3, 2), strict=True))
        for trunk, own in zip(kept.prompts, kept.own, strict=True)
    ]
    return {kind.window: shape for kind, shape in zip(model.config.kinds, shapes, strict=True)}


@pytest.mark.parametrize("kind", ["exact", "int8"])
def test_what_is_kept(kind):
    model, params = windowed(6)
    model = model.caching(kind)
    assert columns(model, params, 16, 20) == {None: (16, 16, 20, 20), 6: (5, 5, 6, 6)}
    # prompts and answers shorter than the window
    assert columns(model, params, 4, 3) == {None: (4, 4, 3, 3), 6: (4, 4, 3, 3)}


def test_a_window_of_the_token_alone_keeps_a_column_that_nothing_sees():
    assert columns(*windowed(1), 4, 3) == {None: (4, 4, 3, 3), 1: (1, 1, 1, 1)}


@pytest.mark.parametrize("engine", [Lockstep(), Slots(), Lockstep("int8")], ids=["lockstep", "slots", "int8"])
@pytest.mark.parametrize("window", [1, 6])
def test_log_probs_are_those_of_whole_rows(engine, window):
    """Of answers three times as long as the window and longer, behind prompts shorter and longer than it."""
    model, params = windowed(window)
    asked = [list(range(3, 3 + length)) for length in (4, 11, 2, 7)]
    task = Task(samples=2, limit=20, sampler=Temperature(1.0), stop=())
    tolerance = {"atol": 0.05} if engine == Lockstep("int8") else CLOSE
    for piece in engine.open(task, model, ONE, None, 8)(params, asked, np.arange(len(asked)), KEY):
        for number, tokens, logps in zip(piece.numbers, piece.tokens, piece.logps, strict=True):
            for said, found in zip(tokens, logps, strict=True):
                np.testing.assert_allclose(found, of_whole_row(model, params, asked[number], said), **tolerance)


def of_whole_row(model: Model, params: Params, prompt: list[int], said: np.ndarray) -> np.ndarray:
    """Log-probs of what was said, in one row and without a cache."""
    row, behind = np.zeros(32, np.int32), len(prompt)  # of one length, so that nothing is compiled again
    row[: behind + len(said)] = [*prompt, *said]
    position = jnp.arange(len(row), dtype=jnp.int32)[None]
    hidden = model.hidden(params, jnp.asarray(row)[None], position, position[:, :, None] >= position[:, None])
    of_all = jax.nn.log_softmax(model.logits(params, hidden))[0]
    return np.asarray(of_all[np.arange(behind, behind + len(said)) - 1, said])


@pytest.mark.parametrize("progress", ["together", "apart"])
def test_columns_in_turn_are_seen_as_those_of_a_cache_of_everything(progress):
    """Nine tokens behind a prompt, a window of four: kept whole, and in four columns of which the ninth has the 1st."""
    b, k, g, h, p, t, window = 2, 2, 3, 8, 5, 9, 4
    draw = iter(jax.random.split(KEY, 5))
    query = jax.random.normal(next(draw), (b, 1, k, g, h))
    key, value = jax.random.normal(next(draw), (b, k, h, t)), jax.random.normal(next(draw), (b, k, t, h))
    trunk = jax.random.normal(next(draw), (b, k, h, p)), jax.random.normal(next(draw), (b, k, p, h))
    near = trunk[0][..., 1 - window :], trunk[1][:, :, 1 - window :]
    rolled = jnp.zeros((b, k, h, window)), jnp.zeros((b, k, window, h))
    for said in range(1, t + 1):
        far = {
            "together": Together(jnp.array([3, 5]), jnp.int32(said)),
            "apart": Apart(jnp.array([3, 5]), jnp.array([[0, 1]]), jnp.array([[said, said]])),
        }[progress]
        newest = key[..., said - 1 : said], value[:, :, said - 1 : said]
        rolled = tuple(far.written(old, new, axis) for old, new, axis in zip(rolled, newest, (3, 2), strict=True))
        found = attend(query, *rolled, Behind(*near, far), jnp.int32(window), float(h), None, None)
        expected = attend(query, key, value, Behind(*trunk, far), jnp.int32(window), float(h), None, None)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
