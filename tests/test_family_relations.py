"""Relations that hold for every family, and the parts that they add to the plain decoder."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from made_families import PAD, PROMPT, assert_close, config_of, continued, each, loaded, opened, paired, scores
from made_models import mesh, place

from jaxalign.data.groups import RolledGroups
from jaxalign.errors import ModelError
from jaxalign.mesh.sharding import RULES, row_sharding
from jaxalign.models.experts import Experts, Mixture
from jaxalign.models.random_model import RandomModel
from jaxalign.models.rope import Linear, Llama3, Rope
from jaxalign.models.stack import Layer
from jaxalign.rollouts.contract import Task
from jaxalign.rollouts.lockstep import generate
from jaxalign.rollouts.samplers import Temperature
from jaxalign.training.logps import logp_sums
from jaxalign.training.rows import RowShape, pack


@each
def test_eight_devices_score_as_one(name):
    model, params, golden = loaded(name)
    devices = mesh("2x2x2")
    tokens = jax.device_put(np.tile(golden["tokens"], (2, 1)), row_sharding(devices))
    assert_close(
        scores(model.on(devices, RULES), place(model, params, devices), tokens), np.tile(golden["logits"], (2, 1, 1))
    )


def test_gradients_through_experts_on_eight_devices_are_those_of_one():
    model, params, golden = loaded("qwen3_moe")
    batch = pack(
        RolledGroups(*paired(golden["tokens"])), np.array([0, 1, 0, 1]), RowShape(row=64, scored=48, response=24), {}
    )

    def gradient(model, params, batch):
        return jax.jit(jax.grad(lambda params, batch: jnp.sin(logp_sums(model, params, batch)).sum()))(params, batch)

    one, devices = gradient(model, params, batch), mesh("2x2x2")
    there = place(model, params, devices), jax.device_put(batch, row_sharding(devices))
    eight = gradient(model.on(devices, RULES), *there)
    assert all(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(one))  # every parameter counts
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), eight, one)


def test_recorded_log_probs_are_the_policys_own_where_scores_are_capped():
    model, params, golden = loaded("gemma2")
    prompts, lengths = golden["tokens"][:, :PROMPT].copy(), jnp.array([PROMPT, PROMPT - PAD])
    prompts[1] = np.roll(prompts[1], PAD)  # padding to the left of the second
    run = jax.jit(partial(generate, model, Task(2, 12, Temperature(1.0), ())))
    tokens, _, _, logps = run(params, prompts, lengths, jax.random.split(jax.random.key(0), 2))
    for prompt in range(2):
        start = PROMPT - int(lengths[prompt])
        for sample in range(2):
            row = np.concatenate([prompts[prompt, start:], tokens[prompt, sample], np.zeros(start, np.int32)])[None]
            found = jax.nn.log_softmax(scores(model, params, row))[0, PROMPT - start - 1 :][:12]
            assert_close(np.take_along_axis(found, tokens[prompt, sample][:, None], -1)[:, 0], logps[prompt, sample])


@each
def test_programs_do_not_grow_with_depth(name):
    config = config_of(name)
    deep = dataclasses.replace(config, layers=2 * config.layers, pattern=2 * config.pattern)
    rows = jax.ShapeDtypeStruct((2, 8), np.int32)

    def size(shape) -> int:
        model = RandomModel(shape).open()
        mask = jax.ShapeDtypeStruct((2, 8, 8), bool)
        return str(jax.make_jaxpr(model.hidden)(model.abstract(), rows, rows, mask)).count("\n")

    assert size(deep) == size(config) > 30


@pytest.mark.parametrize("name", ["gemma2", "qwen3_moe"])
def test_bf16_is_close_and_scores_stay_fp32(name):
    _, params, golden = loaded(name)
    half = opened(name, compute_dtype="bfloat16")
    found = scores(half, params, golden["tokens"])
    assert found.dtype == jnp.float32
    # 8 bits of mantissa (0.004) through tens of products in a row, scores of size 1; the median, because a router may
    # choose another expert for a token
    assert np.median(np.abs(found - golden["logits"])) < 0.03
    again = continued(half, params, golden["tokens"], jnp.zeros(2, jnp.int32))
    assert np.median(np.abs(again - found[:, PROMPT - 1 :])) < 0.03


# ----------------------------------------------------------------------------------------------------------------------
# Parts


def test_experts_are_a_sum_over_the_chosen_ones():
    """By hand, in float64; and a token alone gives what it gives in company, since nothing is dropped."""
    model, params, _ = loaded("qwen3_moe")
    module = jax.tree.map(lambda leaf: np.float64(leaf[0]), params["blocks"]["mlp"])
    x = np.random.default_rng(0).standard_normal((1, 5, 24)).astype(np.float32)
    for normalised in (True, False):
        found = mixed(dataclasses.replace(model.config.mixture, normalised=normalised), params, x)
        for token in range(5):
            share = np.exp(x[0, token] @ module["router"])
            share /= share.sum()
            best = np.argsort(-share)[:3]
            kept = share[best] / share[best].sum() if normalised else share[best]
            made = sum(k * expert(module, e, x[0, token]) for k, e in zip(kept, best, strict=True))
            np.testing.assert_allclose(found[0, token], made, rtol=1e-5, atol=1e-5)
        alone = mixed(dataclasses.replace(model.config.mixture, normalised=normalised), params, x[:, 3:4])
        np.testing.assert_allclose(alone[0, 0], found[0, 3], rtol=1e-6, atol=1e-6)


def mixed(mixture: Mixture, params, x):
    graph = nnx.graphdef(nnx.eval_shape(lambda: Experts(24, mixture, "silu", layout=None)))
    first = jax.tree.map(lambda leaf: leaf[0], params["blocks"]["mlp"])
    return np.asarray(nnx.merge(graph, first)(jnp.asarray(x)))


def expert(module, e: int, x):
    gate = x @ module["gate"][e]
    return (gate / (1 + np.exp(-gate)) * (x @ module["up"][e])) @ module["down"][e]


def test_rotations_and_their_scalings():
    """Head of 8, base 1e4: 1, .1, .01 and .001 radians a token, wavelengths 6.3, 63, 628 and 6,283 tokens."""
    plain = np.array([1, 0.1, 0.01, 0.001])
    np.testing.assert_allclose(Rope().frequencies(8), plain, rtol=1e-6)
    np.testing.assert_allclose(Rope(scaling=Linear(4.0)).frequencies(8), plain / 4, rtol=1e-6)
    # below 1,000 / 4 tokens as they are, beyond 1,000 divided; 628 blended: (1,000 / 628.3 - 1) / 3 = .19718 of it kept
    blended = (1 - 0.19718) * 0.01 / 8 + 0.19718 * 0.01
    scaled = Rope(scaling=Llama3(8.0, 1.0, 4.0, 1000)).frequencies(8)
    np.testing.assert_allclose(scaled, [1, 0.1, blended, 0.001 / 8], rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pattern": (Layer(),)}, "pattern of 1 layers does not fit 3 layers"),
        ({"pattern": (Layer(0), Layer(), Layer())}, "windows must be at least 1"),
        ({"pattern": (Layer(rope=1),) * 3}, "beyond the 1 there are"),
        ({"mixture": Mixture(4, 5, 8, True)}, "5 of 4 experts"),
        ({"ropes": (Rope(0.0),)}, "base of rotations must be positive"),
        ({"ropes": (Rope(1e4, Linear(-1.0)),)}, "factor of a RoPE scaling must be positive"),
        ({"ropes": (Rope(1e4, Llama3(8.0, 4.0, 1.0, 64)),)}, "0 < low < high"),
        ({"heads": 3}, "shared out evenly"),
    ],
)
def test_impossible_shapes_are_refused(change, words):
    with pytest.raises(ModelError, match=words):
        RandomModel(dataclasses.replace(config_of("qwen2"), **change)).open()


def test_a_negative_seed_is_refused():
    with pytest.raises(ModelError, match="seed"):
        RandomModel(config_of("qwen2"), seed=-1).open()
