"""Log-probs of rows on a mesh whose tensor axis splits the head: what one device computes, without gathering it."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_groups import groups, rollouts
from made_models import ONE, mesh, place, shardings

from jaxalign.data.groups import RolledGroups
from jaxalign.mesh.sharding import RULES, row_sharding
from jaxalign.models.model import Model, split
from jaxalign.models.random_llama import RandomLlama, byte_chat, drawn
from jaxalign.ops.linear_logp.tuning import tuning
from jaxalign.training.logps import logp_sums
from jaxalign.training.rows import RowShape, pack
from jaxalign.types import Batch, Params

VOCABULARY = 272
"""Divides by 8, and is the size of nothing else in the model."""


@pytest.fixture(scope="module")
def model() -> Model:
    config = RandomLlama(layers=1, tied=False, context=64).config(VOCABULARY)
    return split(config, byte_chat(), "wide", drawn(config, 0))


@pytest.fixture(scope="module")
def batch() -> Batch:
    pairs = groups([0, 1, 2, 0], [[0, 1], [3, 1], [2, 0], [0, 2]])
    return pack(RolledGroups(rollouts(), pairs), np.arange(4), RowShape(row=32, scored=16, response=8), {})


@pytest.fixture(autouse=True)
def chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop that a real vocabulary has."""
    monkeypatch.setitem(tuning()["full_logits_bytes"], "cpu", 0)
    monkeypatch.setitem(tuning()["chunk"], "cpu", 16)


def compiled(model: Model, on: jax.sharding.Mesh, params: Params, batch: Batch) -> jax.stages.Compiled:
    """A loss of the log-prob sums with its gradients, which lie as the parameters do."""
    value = jax.value_and_grad(lambda params, batch: jnp.sin(logp_sums(model, params, batch)).sum())
    return jax.jit(value, out_shardings=(None, shardings(model, on))).lower(params, batch).compile()


def whole_vocabulary(program: jax.stages.Compiled) -> list[str]:
    """Shapes of the buffers on a device that have all rows of the head, or all of a token's logits."""
    shapes = set(re.findall(r"\[([\d,]+)\]", program.as_text()))
    return [shape for shape in shapes if str(VOCABULARY) in shape.split(",")]


@pytest.mark.parametrize("name", ["2x2x2", "1x1x8"])
def test_a_split_head_gives_the_same_and_is_never_gathered(name: str, model: Model, batch: Batch) -> None:
    params = model.load()
    wanted = compiled(model, ONE, params, batch)(params, batch)
    on = mesh(name)
    there = place(model, params, on), jax.device_put(batch, row_sharding(on))
    program = compiled(model.on(on, RULES), on, *there)
    # fp32 sums of at most six tokens in another order
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-4), program(*there), wanted)
    assert not whole_vocabulary(program)


def test_without_a_layout_xla_gathers_the_head(model: Model, batch: Batch) -> None:
    """What the layout is for, and the proof that the test above can fail."""
    on = mesh("1x1x8")
    there = place(model, model.load(), on), jax.device_put(batch, row_sharding(on))
    assert whole_vocabulary(compiled(model, on, *there))
