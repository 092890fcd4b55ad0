"""Checkpoints of every family with transformers' numbers (goldens/make_families.py), and ways to compute them."""

import dataclasses
import functools
import pathlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_groups import groups
from safetensors.numpy import load_file

from jaxalign.formats.huggingface import Directory, read_json
from jaxalign.formats.weights import Stored, check
from jaxalign.models.decoder import DecoderConfig
from jaxalign.models.family import config_of_hf
from jaxalign.models.hf_fields import HfFields
from jaxalign.models.model import Model, split
from jaxalign.models.random_llama import byte_chat
from jaxalign.ops.attention import Together
from jaxalign.rollouts.shares import given
from jaxalign.types import Groups, Params, Rollouts

FOLDER = pathlib.Path(__file__).parent / "goldens" / "families"
CHECKPOINTS = sorted(path.name for path in FOLDER.iterdir())
"""Small random checkpoints of transformers, at least one for each family; see goldens/make_families.py."""

each = pytest.mark.parametrize("name", CHECKPOINTS)

PROMPT, PAD = 9, 3
"""Columns of a prefill, and columns of padding before it. Windows are 6 tokens long, rows 28."""


def config_of(checkpoint: str) -> DecoderConfig:
    file = FOLDER / checkpoint / "config.json"
    return config_of_hf(HfFields(read_json(file), file))


def opened(checkpoint: str, **changes) -> Model:
    """The model of a checkpoint, its config changed. Its 64 tokens have no texts: the chat is one of bytes."""
    config = dataclasses.replace(config_of(checkpoint), **changes)
    reader = Directory(FOLDER / checkpoint)
    model = split(config, byte_chat(), checkpoint, Stored(reader, config.tensors()))
    check(reader, config.tensors(), model.shapes)
    return model


def assert_close(found, expected) -> None:
    """To 1e-5 of the largest value: fp32 products in another order, some hundred roundings of 6e-8."""
    expected = np.asarray(expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@functools.cache
def loaded(name: str) -> tuple[Model, Params, dict[str, np.ndarray]]:
    """Model, parameters and golden of a checkpoint."""
    model = opened(name)
    return model, model.load(), load_file(FOLDER / name / "golden.safetensors")


def causal(length: int, pad=0):
    """Position and mask of one row whose first `pad` columns are padding."""
    real = jnp.arange(length) >= pad
    mask = jnp.tril(jnp.ones((length, length), bool)) & real[None, :] & real[:, None]
    return jnp.maximum(jnp.arange(length) - pad, 0), mask


@partial(jax.jit, static_argnums=0)
def scores(model: Model, params, tokens):
    """Of whole rows [n s v]."""
    n, s = tokens.shape
    position, mask = (jnp.tile(a[None], (n, *(1,) * a.ndim)) for a in causal(s))
    return model.logits(params, model.hidden(params, tokens, position, mask))


@partial(jax.jit, static_argnums=0)
def continued(model: Model, params, tokens, pad):
    """Scores from a row's column PROMPT on, by prefill and one decoding step a token; row i lies behind pad[i] columns.

    Cut at the end, all rows have as many columns as the tokens.
    """
    s = tokens.shape[1]
    shift = jnp.arange(s)[None, :] - pad[:, None]
    columns = jnp.where(shift >= 0, jnp.take_along_axis(tokens, jnp.maximum(shift, 0), 1), 7)
    position, mask = jax.vmap(lambda one: causal(PROMPT, one))(pad)
    hidden, cache = model.prefill(params, columns[:, :PROMPT], position, mask, len(pad), s - PROMPT)
    view = model.unstacked(params)

    def step(cache, said):
        hidden, cache = model.decode(view, cache, columns[:, PROMPT - 1 + said], Together(PROMPT - pad, said))
        return cache, model.logits(view, hidden)

    _, rest = jax.lax.scan(step, cache, jnp.arange(1, s - PROMPT + 1))
    return jnp.concatenate([model.logits(params, hidden)[None], rest]).swapaxes(0, 1)


def paired(tokens: np.ndarray) -> tuple[Rollouts, Groups]:
    """Rollouts and groups: prompts are the first tokens of each row, responses the rest of it and of the other row."""
    n, length = len(tokens), tokens.shape[1] - PROMPT
    rest = tokens[:, PROMPT:]
    answers = np.stack([rest, rest[::-1]], axis=1)
    made = given(tokens[:, :PROMPT], np.full(n, PROMPT), answers, np.full((n, 2), length))
    return made, groups([0, 1], [[0, 1], [0, 1]])
