"""Heads: the last token under any padding and packing, skew-symmetric preferences, judges read from files."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_classifier import open_classifier
from made_judges import judge_directory
from safetensors.numpy import load_file, save_file

from jaxalign.errors import DataError, ModelError
from jaxalign.models.heads import last_tokens, outputs, preference_margin
from jaxalign.models.random_llama import RandomLlama

LENGTHS = (5, 9, 2)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def scalar(tmp_path_factory):
    return judge_directory(tmp_path_factory.mktemp("judges") / "scalar", 1)


@pytest.fixture(scope="module")
def alone():
    """A model, its weights, three texts, and the hidden state of the last token of each read by itself."""
    model = RandomLlama(context=64).open()
    params, rng = model.load(), np.random.default_rng(0)
    texts = [jnp.asarray(rng.integers(3, 259, length), jnp.int32) for length in LENGTHS]

    def last(tokens):
        size = len(tokens)
        mask = jnp.tril(jnp.ones((1, size, size), bool))
        return model.hidden(params, tokens[None], jnp.arange(size, dtype=jnp.int32)[None], mask)[0, -1]

    return model, params, texts, jnp.stack([last(tokens) for tokens in texts])


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_leaves_the_last_token(alone, side):
    model, params, texts, expected = alone
    width, rows = 12, len(texts)
    starts = [width - len(text) if side == "left" else 0 for text in texts]
    tokens, position = np.zeros((rows, width), np.int32), np.zeros((rows, width), np.int32)
    segment = np.full((rows, width), -1, np.int32)
    for row, (start, text) in enumerate(zip(starts, texts, strict=True)):
        tokens[row, start : start + len(text)] = text
        position[row, start : start + len(text)] = np.arange(len(text))
        segment[row, start : start + len(text)] = 0
    seen = (segment[:, :, None] == 0) & (segment[:, None, :] == 0) & np.tril(np.ones((width, width), bool))
    hidden = model.hidden(params, jnp.asarray(tokens), jnp.asarray(position), jnp.asarray(seen))
    np.testing.assert_allclose(
        last_tokens(hidden, jnp.asarray(segment), jnp.asarray(position), 1)[:, 0], expected, **CLOSE
    )


def test_packed_responses_have_their_own_last_tokens(alone):
    model, params, texts, expected = alone
    tokens = jnp.concatenate(texts)[None]
    segment = jnp.asarray(np.repeat(np.arange(3), LENGTHS), jnp.int32)[None]
    position = jnp.asarray(np.concatenate([np.arange(length) for length in LENGTHS]), jnp.int32)[None]
    seen = (segment[:, :, None] == segment[:, None, :]) & jnp.tril(jnp.ones((1, 16, 16), bool))
    found = last_tokens(model.hidden(params, tokens, position, seen), segment, position, 5)
    np.testing.assert_allclose(found[0, :3], expected, **CLOSE)
    np.testing.assert_array_equal(found[0, 3:], 0.0)


def test_preferences_are_skew_symmetric_and_may_cycle():
    first, second = jax.random.normal(jax.random.key(0), (2, 7, 6))
    np.testing.assert_allclose(preference_margin(first, second), -preference_margin(second, first), rtol=1e-6)
    np.testing.assert_array_equal(preference_margin(first, first), 0.0)
    # Three directions 120 degrees apart: each beats the next, sin 120° = 0.866.
    turn = 2 * np.pi * jnp.arange(3, dtype=jnp.float32) / 3
    wheel = jnp.stack([jnp.cos(turn), jnp.sin(turn)], -1)
    np.testing.assert_allclose(preference_margin(wheel, jnp.roll(wheel, -1, 0)), np.sqrt(3) / 2, rtol=1e-5)


def test_heads_read_low_precision_and_answer_in_fp32():
    weight, hidden = jax.random.normal(jax.random.key(1), (3, 8)), jax.random.normal(jax.random.key(2), (5, 8))
    found = outputs(weight, hidden.astype(jnp.bfloat16))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, hidden @ weight.T, atol=0.1)  # eight products rounded to 8 bits


def test_a_judge_does_not_mind_who_else_is_judged(scalar):
    judge = open_classifier(str(scalar))
    rows = [[5, 6, 7], list(range(3, 103)), [9]]
    together = judge(rows)
    for row, value in zip(rows, together, strict=True):
        np.testing.assert_allclose(judge([row])[0], value, **CLOSE)


def test_what_is_no_judge_is_refused_by_name(scalar, tmp_path):
    with pytest.raises(DataError, match="row 0 has 600 tokens"):
        open_classifier(str(scalar))([[5] * 600])
    model = RandomLlama().open()
    from jaxalign.exchange.export import export

    export(model, model.load(), tmp_path / "plain")
    with pytest.raises(ModelError, match="does not name a sequence classifier"):
        open_classifier(str(tmp_path / "plain"))
    broken = judge_directory(tmp_path / "broken", 1)
    tensors = load_file(broken / "model.safetensors")
    save_file({name: value for name, value in tensors.items() if name != "score.weight"}, broken / "model.safetensors")
    with pytest.raises(ModelError, match=r"'score.weight' is missing"):
        open_classifier(str(broken))
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "mystery": 3}))
    with pytest.raises(ModelError, match="mystery"):
        open_classifier(str(broken))
