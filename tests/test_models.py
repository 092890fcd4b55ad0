"""Model families: relations between their ways of computing the same thing. Weights are random and small."""

import dataclasses
import math
from functools import partial
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from made_models import ONE as ONE_DEVICE

from jaxalign.errors import ModelError
from jaxalign.mesh.sharding import MeshShape
from jaxalign.models.model import Model
from jaxalign.models.random_llama import RandomLlama
from jaxalign.models.remat import REMAT, Remat, tighter
from jaxalign.models.tabular import TabularPolicy
from jaxalign.ops.attention import Together, Tree
from jaxalign.types import Params

CLOSE = {"rtol": 2e-5, "atol": 2e-5}
"""Same products in another order, fp32: a few hundred roundings of 6e-8 through values of size 1."""


@pytest.fixture(scope="module")
def model() -> Model:
    return RandomLlama(tied=False).open()


@pytest.fixture(scope="module")
def params(model):
    return model.load()


ROWS, LENGTH = 2, 8
"""One shape for all tests: each function of a model compiles once."""

POSITION = jnp.tile(jnp.arange(LENGTH)[None], (ROWS, 1))
CAUSAL = jnp.tile(jnp.tril(jnp.ones((LENGTH, LENGTH), bool))[None], (ROWS, 1, 1))


def tokens_of(model: Model, seed: int = 1) -> jax.Array:
    return jax.random.randint(jax.random.key(seed), (ROWS, LENGTH), 0, model.config.vocab)


def forward(model: Model, params: Params, tokens, position=POSITION, mask=CAUSAL):
    """Hidden states, and the gradient of a bumpy function of them."""
    return compiled(model, params, tokens, position, mask)


@partial(jax.jit, static_argnums=0)
def compiled(model: Model, params: Params, tokens, position, mask):
    def loss(params):
        hidden = model.hidden(params, tokens, position, mask)
        return jnp.sin(hidden.astype(jnp.float32)).sum(), hidden

    gradient, hidden = jax.grad(loss, has_aux=True)(params)
    return hidden, gradient


prefill = jax.jit(Model.prefill, static_argnums=(0, 5, 6))
unstacked = jax.jit(Model.unstacked, static_argnums=0)
decode = jax.jit(Model.decode, static_argnums=0)


def continued(model: Model, params: Params, tokens, start: int):
    """Hidden states of columns 4 … of the rows that begin at `start`, by prefill of 5 columns and decoding the rest."""
    real = jnp.arange(5) >= start
    position = jnp.maximum(POSITION - start, 0)
    mask = CAUSAL[:, :5, :5] & real[None, None, :] & real[None, :, None]
    hidden, cache = prefill(model, params, tokens[:, :5], position[:, :5], mask, ROWS, LENGTH)
    view, found = unstacked(model, params), [hidden]
    for index in range(5, LENGTH):
        progress = Together(jnp.full(ROWS, 5 - start), jnp.asarray(index - 4))
        hidden, cache = decode(model, view, cache, tokens[:, index], progress)
        found.append(hidden)
    return jnp.stack(found, 1)


def test_jit_equals_eager(model, params):
    eager = model.hidden(params, tokens_of(model), POSITION, CAUSAL)
    np.testing.assert_allclose(forward(model, params, tokens_of(model))[0], eager, **CLOSE)


def test_parameter_count(model, params):
    layers, d, f, n, k, h, v = 2, 32, 64, 4, 2, 8, 259
    expected = 2 * v * d + d + layers * (2 * d + 2 * d * n * h + 2 * d * k * h + 3 * d * f)
    assert sum(a.size for a in jax.tree.leaves(params)) == expected
    assert sum(math.prod(a.shape) for a in jax.tree.leaves(model.abstract())) == expected


def test_params_fit_the_abstract_ones_and_axes_name_every_axis(model, params):
    same = jax.tree.map(lambda a, s: a.shape == s.shape and a.dtype == s.dtype, params, model.abstract())
    assert all(jax.tree.leaves(same))
    named = jax.tree.map(lambda s, names: len(s.shape) == len(names), model.abstract(), model.axes)
    assert all(jax.tree.leaves(named))
    assert model.axes["blocks"]["attention"]["q"] == ("layers", "embed", "heads", "head")


@pytest.mark.parametrize("tied", [False, True])
def test_prefill_and_decode_equal_one_forward(tied):
    model = RandomLlama(tied=tied).open()
    params, tokens = model.load(), tokens_of(model)
    found = continued(model, params, tokens, start=0)
    np.testing.assert_allclose(found, forward(model, params, tokens)[0][:, 4:], **CLOSE)


def test_left_padding_changes_nothing(model, params):
    tokens = tokens_of(model)
    shifted = jnp.roll(tokens, -2, axis=1)
    found = continued(model, params, tokens, start=2)
    np.testing.assert_allclose(found, forward(model, params, shifted)[0][:, 2:6], **CLOSE)


def test_scores_of_parameters_and_of_their_unstacked_view(model, params):
    hidden = forward(model, params, tokens_of(model))[0]
    expected = model.logits(params, hidden)
    assert expected.dtype == jnp.float32
    np.testing.assert_array_equal(model.logits(unstacked(model, params), hidden), expected)
    np.testing.assert_allclose(expected, hidden @ model.head(params).T, **CLOSE)


def test_rows_of_one_prompt_go_on_as_if_each_had_read_it_alone(model, params):
    """Three rows behind each of two prompts, of 5 and of 3 tokens with padding before them."""
    prompts, said = tokens_of(model)[:, :5], jax.random.randint(jax.random.key(2), (3 * ROWS, 2), 0, 259)
    lengths = np.array([5, 3], np.int32)
    position = np.arange(5, dtype=np.int32) - (5 - lengths[:, None])
    real, position = jnp.asarray(position >= 0), jnp.asarray(np.maximum(position, 0))
    mask = CAUSAL[:, :5, :5] & real[:, None, :] & real[:, :, None]
    _, cache = prefill(model, params, prompts, position, mask, 3 * ROWS, 2)
    view, found = unstacked(model, params), []
    for index in range(2):
        progress = Together(jnp.asarray(lengths), jnp.asarray(index + 1))
        hidden, cache = decode(model, view, cache, said[:, index], progress)
        found.append(hidden)
    for row, length in enumerate(np.repeat(lengths, 3)):
        alone = (
            jnp.zeros((ROWS, LENGTH), jnp.int32)
            .at[0, : length + 2]
            .set(jnp.concatenate([prompts[row // 3, 5 - length :], said[row]]))
        )
        wanted = forward(model, params, alone)[0][0, length : length + 2]
        np.testing.assert_allclose(jnp.stack(found, 1)[row], wanted, **CLOSE)


def test_a_pair_in_one_row_equals_two_rows(model, params):
    """Row 0: trunk 0-2, branches 3-5 and 6-7, positions going on from the trunk in both; row 1 is ordinary."""
    tokens = tokens_of(model)
    branch = jnp.array([0, 0, 0, 1, 1, 1, 2, 2])
    position = POSITION.at[0].set(jnp.array([0, 1, 2, 3, 4, 5, 3, 4]))
    own = (branch[None, :] == 0) | (branch[None, :] == branch[:, None])
    mask = CAUSAL.at[0].set(own & (position[0][None, :] <= position[0][:, None]))
    tree = forward(model, params, tokens, position, mask)[0]
    apart = jnp.stack([tokens[0], jnp.concatenate([tokens[0, :3], tokens[0, 6:], tokens[0, :3]])])
    first, second = forward(model, params, apart)[0]
    np.testing.assert_allclose(tree[0, :6], first[:6], **CLOSE)
    np.testing.assert_allclose(tree[0, 6:], second[3:5], **CLOSE)
    np.testing.assert_allclose(tree[1], forward(model, params, tokens)[0][1], **CLOSE)


@pytest.mark.parametrize("remat", tighter("none"))
def test_remat_changes_neither_values_nor_gradients(model, params, remat):
    other = RandomLlama(tied=False).open().on(ONE_DEVICE, MeshShape().rules, remat)
    (hidden, gradient), (same, alike) = (forward(m, params, tokens_of(model)) for m in (model, other))
    np.testing.assert_allclose(hidden, same, **CLOSE)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), gradient, alike)


def test_bf16_is_close_to_fp32_and_keeps_fp32_masters(model, params):
    other = RandomLlama(tied=False, compute_dtype="bfloat16").open()
    half = other.load()
    jax.tree.map(np.testing.assert_array_equal, half, params)
    tokens = tokens_of(model)
    hidden, gradient = jax.eval_shape(partial(forward, other), half, tokens)
    assert {a.dtype for a in jax.tree.leaves(gradient)} == {jnp.dtype(jnp.float32)}
    hidden = jax.jit(other.hidden)(half, tokens, POSITION, CAUSAL)
    assert hidden.dtype == other.head(half).dtype == jnp.bfloat16
    assert other.logits(half, hidden).dtype == jnp.float32
    # 8 bits of mantissa (0.004) through about ten products in a row, values of size 1
    assert np.abs(np.asarray(hidden, np.float32) - forward(model, params, tokens)[0]).mean() < 0.02
    found = np.asarray(continued(other, half, tokens, start=0), np.float32)
    assert np.abs(found - np.asarray(hidden[:, 4:], np.float32)).mean() < 0.02


def test_padding_rows_have_finite_values_and_gradients(model, params):
    mask = CAUSAL.at[1].set(False).at[0, :, 3:].set(False)
    hidden, gradient = forward(model, params, tokens_of(model), POSITION, mask)
    assert all(bool(jnp.isfinite(a).all()) for a in (hidden, *jax.tree.leaves(gradient)))


def test_eight_devices_equal_one(model, params):
    mesh = jax.make_mesh((1, 2, 4), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    rules = {"vocab": "tensor", "heads": "tensor", "kv_heads": "tensor", "mlp": "tensor", "embed": "fsdp"}

    def fit(shape, names):
        """The rule's mesh axis where it divides the axis (259 tokens and 2 KV heads stay whole)."""
        axes = [rules.get(name) for name in names]
        fits = [axis if axis and n % mesh.shape[axis] == 0 else None for axis, n in zip(axes, shape.shape, strict=True)]
        return NamedSharding(mesh, PartitionSpec(*fits))

    shardings = jax.tree.map(fit, model.abstract(), model.axes)

    def place(path):
        sharding = shardings
        for step in path:
            sharding = sharding[step]
        return sharding

    spread = model.load(place)
    assert spread["blocks"]["mlp"]["up"].sharding.spec == PartitionSpec(None, "fsdp", "tensor")
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    hidden, gradient = forward(model, spread, *jax.device_put((tokens_of(model), POSITION, CAUSAL), rows))
    same, alike = forward(model, params, tokens_of(model))
    np.testing.assert_allclose(hidden, same, **CLOSE)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), gradient, alike)


def test_random_weights_follow_their_seed():
    first, again, other = (RandomLlama(seed=seed).open().load() for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert not np.array_equal(first["embed"], other["embed"])
    layers = first["blocks"]["mlp"]["up"]
    assert not np.array_equal(layers[0], layers[1])


@pytest.mark.parametrize(
    ("change", "words"),
    [({"kv_heads": 3}, "shared out"), ({"head_dim": 7}, "odd"), ({"width": 0}, "width must"), ({"seed": -1}, "seed")],
)
def test_impossible_shapes_are_refused(change, words):
    source = dataclasses.replace(RandomLlama(), **change)
    assert any(words in problem for problem in source.problems())
    with pytest.raises(ModelError, match=words):
        source.open()


ONE = (jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1, 1), bool))
"""Position and mask of a row of one token."""


def test_a_table_is_its_distribution():
    model = TabularPolicy((0.2, 0.5, 0.3)).open()
    params = model.load()
    assert model.axes == {"table": ("vocab", "embed")}
    tokens = jnp.array([model.chat.encode([{"role": "user", "content": "play"}])])
    hidden = model.hidden(params, tokens, *ONE)
    np.testing.assert_allclose(jax.nn.softmax(model.logits(params, hidden))[0, 0], [0.2, 0.5, 0.3], rtol=1e-6)
    first, cache = model.prefill(params, tokens, *ONE, 1, 1)
    view = model.unstacked(params)
    np.testing.assert_array_equal(model.logits(view, first), model.logits(params, hidden)[:, 0])
    again, _ = model.decode(view, cache, jnp.array([1]), Together(jnp.array([1]), jnp.asarray(1)))
    np.testing.assert_array_equal(again, first)


def test_a_tables_gradient_is_that_of_softmax():
    model = TabularPolicy((0.2, 0.5, 0.3)).open()

    def logp(params):
        hidden = model.hidden(params, jnp.zeros((1, 1), jnp.int32), *ONE)
        return jax.nn.log_softmax(model.logits(params, hidden)[0, 0])[1]

    gradient = jax.grad(logp)(model.load())["table"][:, 0]
    np.testing.assert_allclose(gradient, [-0.2, 0.5, -0.3], rtol=1e-6)


def test_actions_have_names():
    chat = TabularPolicy((0.2, 0.5, 0.3)).open().chat
    assert [chat.decode([i]) for i in range(3)] == ["a", "b", "c"]
    assert chat.stop == ()
    many = TabularPolicy((1 / 30,) * 30).open().chat
    assert many.decode([29]) == "29"
    assert many.fingerprints != chat.fingerprints


@pytest.mark.parametrize("init", [(), (0.5, 0.6), (1.5, -0.5)])
def test_a_table_needs_a_distribution(init):
    with pytest.raises(ModelError, match="probabilities"):
        TabularPolicy(init).open()


def test_remat_policies_keep_less_and_compute_more():
    assert tuple(REMAT) == get_args(Remat)
    rows = jax.ShapeDtypeStruct((2, 16), np.int32)

    def cost(remat: str) -> tuple[int, float]:
        plain = RandomLlama(layers=3, width=32, mlp=64, heads=4, kv_heads=2, head_dim=8).open()
        model = plain.on(ONE_DEVICE, MeshShape().rules, remat)

        def total(params, ids):
            return model.hidden(params, ids, ids, Tree(ids, ids, ids)).sum()

        made = jax.jit(jax.grad(total)).lower(model.abstract(), rows).compile()
        return made.memory_analysis().temp_size_in_bytes, made.cost_analysis()["flops"]

    memory, flops = zip(*map(cost, REMAT), strict=True)
    assert memory == tuple(sorted(memory, reverse=True))
    assert flops == tuple(sorted(flops))
    assert memory[1] < 0.7 * memory[0]
    assert flops[3] > 1.2 * flops[0]
