"""Low-rank differences on frozen bases: read like any matrix, nothing at first, alone in what is trained and stored."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_models import mesh, nudged, shardings
from made_runs import Patience, policy, run_here, tiny_lm
from safetensors.numpy import load_file

from jaxalign.__main__ import main
from jaxalign.errors import Interrupted, ModelError
from jaxalign.exchange.export import export
from jaxalign.exchange.peft import factors
from jaxalign.mesh.sharding import MeshShape
from jaxalign.models.lora import LoRA
from jaxalign.models.low_rank import dense, dropped, frozen, is_low_rank, join, trained
from jaxalign.models.pretrained import Pretrained
from jaxalign.models.quantised import NF4, quantise
from jaxalign.models.random_llama import RandomLlama
from jaxalign.ops.attention import Together
from jaxalign.references.live import Live
from jaxalign.types import Params

BASE = RandomLlama(tied=False, context=64)
TINY_LM = pathlib.Path(__file__).parents[1] / "configs" / "tiny_lm.py"
EXACT = {"rtol": 2e-5, "atol": 2e-5}
"""The same products in fp32, summed in another order, of numbers of size 1."""


@pytest.fixture(scope="module")
def base():
    return BASE.open()


@pytest.fixture(scope="module")
def model():
    return LoRA(BASE, rank=4, alpha=8.0).open()


@pytest.fixture(scope="module")
def params(model):
    """An adapted policy whose B is not zero any more."""
    whole = model.load()
    return join(nudged(trained(whole), 0.1, 1), frozen(whole))


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.integers(3, 259, (4, 12)), jnp.int32)
    position = jnp.broadcast_to(jnp.arange(12, dtype=jnp.int32), (4, 12))
    return tokens, position, jnp.broadcast_to(jnp.tril(jnp.ones((12, 12), bool)), (4, 12, 12))


def test_at_first_the_policy_is_the_base_bit_for_bit(model, base, rows):
    policy = model.load()
    np.testing.assert_array_equal(jax.jit(model.hidden)(policy, *rows), jax.jit(base.hidden)(base.load(), *rows))
    np.testing.assert_array_equal(model.head(policy), base.head(base.load()))


def switched_off(params: Params) -> Params:
    """The same structure with B zero."""

    def off(leaf):
        return dataclasses.replace(leaf, b=jnp.zeros_like(leaf.b)) if is_low_rank(leaf) else leaf

    return jax.tree.map(off, params, is_leaf=is_low_rank)


def test_switched_off_is_the_base_whatever_was_trained(model, base, params, rows):
    off, on = jax.jit(model.hidden)(switched_off(params), *rows), jax.jit(model.hidden)(params, *rows)
    np.testing.assert_array_equal(off, jax.jit(base.hidden)(base.load(), *rows))
    assert np.abs(on - off).max() > 0.1


def test_the_view_is_the_merged_model(model, base, params, rows):
    merged = dense(params)
    assert jax.tree.structure(merged) == jax.tree.structure(base.load())
    np.testing.assert_allclose(model.hidden(params, *rows), base.hidden(merged, *rows), **EXACT)
    for ours, theirs in zip(*(jax.tree.leaves(model.unstacked(each)) for each in (params, merged)), strict=True):
        np.testing.assert_allclose(ours, theirs, **EXACT)


def test_cached_decoding_is_the_whole_row(model, params, rows):
    tokens, position, mask = rows
    whole = model.hidden(params, *rows)
    _, cache = model.prefill(params, tokens[:, :11], position[:, :11], mask[:, :11, :11], 4, 1)
    last, _ = model.decode(model.unstacked(params), cache, tokens[:, 11], Together(jnp.full(4, 11), jnp.asarray(1)))
    np.testing.assert_allclose(last, whole[:, 11], **EXACT)


def test_parts_make_the_whole_again(params):
    again = join(trained(params), frozen(params))
    assert jax.tree.structure(again) == jax.tree.structure(params)
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(params), strict=True):
        assert one is other
    assert {path for path, _ in jax.tree_util.tree_leaves_with_path(trained(params))}
    assert not any(
        leaf.a is not None for leaf in jax.tree.leaves(frozen(params), is_leaf=is_low_rank) if is_low_rank(leaf)
    )


def test_without_differences_everything_is_trained(base):
    params = base.load()
    assert trained(params) is params
    assert frozen(params) == {}
    assert join(params, {}) is params


def test_gradients_are_those_of_the_merged_matrix_by_the_chain_rule(model, base, params, rows):
    """∂A = scale · G Bᵀ and ∂B = scale · Aᵀ G with G the gradient of the merged matrix."""

    def loss(hidden):
        return (hidden * jnp.cos(jnp.arange(hidden.size, dtype=jnp.float32).reshape(hidden.shape))).sum()

    rest = frozen(params)
    found = jax.grad(lambda each: loss(model.hidden(join(each, rest), *rows)))(trained(params))
    whole = jax.grad(lambda each: loss(base.hidden(each, *rows)))(dense(params))
    leaf, g = params["blocks"]["mlp"]["gate"], whole["blocks"]["mlp"]["gate"]
    a, b = found["blocks"]["mlp"]["gate"]["a"], found["blocks"]["mlp"]["gate"]["b"]
    size = float(jnp.abs(a).max())
    np.testing.assert_allclose(a, 2.0 * jnp.einsum("lio,lro->lir", g, leaf.b), rtol=1e-3, atol=1e-5 * size)
    np.testing.assert_allclose(b, 2.0 * jnp.einsum("lir,lio->lro", leaf.a, g), rtol=1e-3, atol=1e-5 * size)


def test_gradients_on_a_mesh_are_those_of_one_device_and_no_matrix_has_one(model, params, rows):
    """Where the gradient of a matrix is made a reduce-scatter sums it (`mesh.layout`); there is none."""

    def gradient(model, params):
        rest = frozen(params)
        run = jax.jit(jax.grad(lambda each: jnp.sin(model.hidden(join(each, rest), *rows)).sum()))
        compiled = run.lower(trained(params)).compile()
        return compiled(trained(params)), compiled.as_text()

    devices = mesh("2x2x2")
    there = model.on(devices, MeshShape().rules)
    split, text = gradient(there, jax.device_put(params, shardings(model, devices)))
    assert "all-reduce(" in text
    assert "reduce-scatter(" not in text
    for one, other in zip(jax.tree.leaves(split), jax.tree.leaves(gradient(model, params)[0]), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5 * float(np.abs(other).max()))


@pytest.mark.parametrize("name", ["1x8x1", "2x2x2"])
@pytest.mark.parametrize("base_dtype", ["float32", "int8", "nf4"])
def test_sharded_is_one_device(name, base_dtype, rows):
    model = LoRA(BASE, rank=4, base_dtype=base_dtype).open()
    params = model.load()
    policy = join(nudged(trained(params), 0.1, 1), frozen(params))
    there = shardings(model, mesh(name))
    split = jax.jit(model.hidden)(jax.device_put(policy, there), *rows)
    np.testing.assert_allclose(split, jax.jit(model.hidden)(policy, *rows), **EXACT)
    # made where they are kept, the parameters are the same
    made = model.load(lambda path: leaf_at(there, path))
    for one, other in zip(jax.tree.leaves(made), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def leaf_at(tree, path):
    for step in path:
        tree = tree[step]
    return tree


@pytest.mark.parametrize(("kind", "bound"), [("int8", 0.5 / 127), ("nf4", 0.153)])
def test_quantised_values_are_within_half_a_step(kind, bound):
    """Of the block's largest magnitude; NF4's widest gap, 0.304 between -1 and -0.696, halved."""
    values = jax.random.normal(jax.random.key(0), (3, 8, 128))
    found = quantise(values, kind)
    largest = jnp.abs(values.reshape(3, 8, 2, 64)).max(-1, keepdims=True)
    error = jnp.abs(found.dense() - values).reshape(3, 8, 2, 64) / largest
    assert found.shape == values.shape
    assert float(error.max()) <= bound * 1.0001
    again = quantise(found.dense(), kind)
    np.testing.assert_array_equal(again.codes, found.codes)
    bits = 8 * sum(leaf.nbytes for leaf in jax.tree.leaves(found)) / values.size
    assert bits == {"int8": 8.5, "nf4": 4.5}[kind]


def test_nf4_keeps_its_levels():
    levels = jnp.asarray(NF4, jnp.float32)
    np.testing.assert_array_equal(quantise(3.0 * levels[None], "nf4").dense()[0], 3.0 * levels)
    with pytest.raises(ValueError, match="7 columns"):
        quantise(jnp.zeros((2, 7)), "nf4")


def test_a_base_in_few_bits_stays_near_and_step_0_is_still_the_reference(rows):
    plain = BASE.open()
    for kind, near in (("int8", 0.05), ("nf4", 0.6)):
        model = LoRA(BASE, rank=2, base_dtype=kind).open()
        params = model.load()
        hidden = jax.jit(model.hidden)(params, *rows)
        assert 0 < float(jnp.abs(hidden - plain.hidden(plain.load(), *rows)).mean()) < near
        np.testing.assert_array_equal(hidden, jax.jit(model.hidden)(switched_off(params), *rows))


def test_targets_go_by_our_names_or_those_of_files():
    def adapted(*targets):
        shapes = LoRA(BASE, targets=targets).open().shapes["blocks"]
        return {name for part in ("attention", "mlp") for name, leaf in shapes[part].items() if is_low_rank(leaf)}

    assert adapted("q_proj", "v_proj") == {"q", "v"}
    assert adapted("blocks.mlp.*") == {"gate", "up", "down"}
    with pytest.raises(ModelError, match=r"target 'w_pack' fits none of .*blocks.attention.q"):
        adapted("w_pack")


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"rank": 0}, "rank"), ({"alpha": 0.0}, "alpha"), ({"dropout": 1.0}, "dropout"), ({"targets": ()}, "targets")],
)
def test_impossible_settings_are_named(changes, named):
    source = dataclasses.replace(LoRA(BASE), **changes)
    assert any(sentence.startswith(named) for sentence in source.problems())
    with pytest.raises(ModelError, match=named):
        source.open()


def test_dropout_keeps_the_mean_and_spares_the_rest(params):
    leaf = params["blocks"]["mlp"]["gate"]
    keys = jax.random.split(jax.random.key(0), 400)
    many = jax.vmap(lambda key: dropped(params, 0.25, key)["blocks"]["mlp"]["gate"].a)(keys)
    # A mean of 400: one standard error is |a| sqrt(1/3) / 20.
    assert (np.abs(many.mean(0) - leaf.a) <= 5 * np.abs(leaf.a) * np.sqrt(1 / 3) / 20).all()
    share = (np.asarray(many) == 0).mean()
    assert share == pytest.approx(0.25, abs=0.01)
    once = dropped(params, 0.25, keys[0])
    assert once["embed"] is params["embed"]
    assert once["blocks"]["mlp"]["gate"].b is leaf.b


# --------------------------------------------------------------------------------------------------------------
# In training


def experiment(**changes):
    found = tiny_lm("--iterations", "1", "--swap_every", "none")
    return dataclasses.replace(found, **{"model": LoRA(found.model, rank=4, dropout=0.1), **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("lora") / "run"
    run_here(experiment(), workdir)
    return workdir


def test_a_run_stores_differences_alone_and_leaves_the_base(finished):
    start, end = policy(finished, 0), policy(finished, 1)
    for before, after in zip(jax.tree.leaves(frozen(start)), jax.tree.leaves(frozen(end)), strict=True):
        np.testing.assert_array_equal(before, after)
    moved = [float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(trained(end))]
    assert min(moved) > 0
    saved = sum(path.stat().st_size for path in (finished / "0000" / "policy").rglob("*") if path.is_file())
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(dense(end)))
    parts = sum(leaf.nbytes for leaf in jax.tree.leaves(trained(end)))
    assert parts < saved < whole


def test_stopped_and_continued_is_uninterrupted(finished, tmp_path):
    stops, workdir = 0, tmp_path / "stopped"

    while True:
        try:
            run_here(experiment(), workdir, Patience(10))
            break
        except Interrupted:
            stops += 1
    assert stops >= 1
    ends = [trained(policy(path, 1)) for path in (finished, workdir)]
    for one, other in zip(*map(jax.tree.leaves, ends), strict=True):
        np.testing.assert_array_equal(one, other)


def test_live_references_are_cached_ones(finished, tmp_path):
    run_here(experiment(reference=Live()), tmp_path / "live")
    ends = [trained(policy(path, 1)) for path in (finished, tmp_path / "live")]
    for one, other in zip(*map(jax.tree.leaves, ends), strict=True):
        # Adam's steps have the size of the learning rate, however small a gradient that rounding changed.
        np.testing.assert_allclose(one, other, atol=1e-4)


# --------------------------------------------------------------------------------------------------------------
# From files and back


@pytest.mark.parametrize("base_dtype", ["bfloat16", "int8"])
def test_a_base_in_files_is_adapted_matrix_by_matrix(base, tmp_path, base_dtype):
    export(base, base.load(), tmp_path / "model")
    found = LoRA(Pretrained(str(tmp_path / "model")), rank=2, base_dtype=base_dtype).open().load()
    expected = LoRA(BASE, rank=2, base_dtype=base_dtype).open().load()
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_adapted_policy_is_exported_merged(model, params, base, tmp_path):
    export(model, params, tmp_path / "merged")
    back = Pretrained(str(tmp_path / "merged")).open().load()
    merged = dense(params)
    assert jax.tree.structure(back) == jax.tree.structure(base.load())
    for one, other in zip(jax.tree.leaves(back), jax.tree.leaves(merged), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


def test_an_exported_adapter_adds_up_to_the_merged_model(finished, tmp_path):
    """PEFT's formula on the files of both: W + alpha / rank · B A."""
    assert not main(["export", str(finished), str(tmp_path / "adapter"), "--adapter"])
    assert not main(["export", str(finished), str(tmp_path / "merged")])
    assert not main(["export", str(finished), str(tmp_path / "base"), "--policy", "base"])
    adapter = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    merged, start = (load_file(tmp_path / name / "model.safetensors") for name in ("merged", "base"))
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"]) == (4, 32.0)
    changed = {name for name in start if not np.array_equal(start[name], merged[name])}
    assert changed == {name.split("model.", 2)[2].replace(".lora_A", "") for name in adapter if ".lora_A." in name}
    for name in changed:
        a, b = (adapter[f"base_model.model.{name[:-7]}.lora_{letter}.weight"] for letter in "AB")
        np.testing.assert_allclose(merged[name], start[name] + 8.0 * b @ a, rtol=1e-5, atol=1e-6)


def test_a_run_without_adapter_has_none_to_export(base, tmp_path):
    with pytest.raises(ModelError, match="nothing is adapted"):
        factors(base, base.load())
