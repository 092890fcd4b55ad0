"""The files of every family: what is read, written and refused. Nothing is computed."""

import dataclasses
import pathlib

import gguf
import jax
import numpy as np
import pytest
from made_families import CHECKPOINTS, FOLDER, config_of, each, opened

from jaxalign.errors import ModelError
from jaxalign.formats.gguf import GgufFile
from jaxalign.formats.huggingface import read_json
from jaxalign.formats.weights import leaf, load
from jaxalign.models.decoder import DecoderConfig, InGguf
from jaxalign.models.experts import Mixture
from jaxalign.models.family import config_of_gguf, config_of_hf, families
from jaxalign.models.gguf_fields import GgufFields
from jaxalign.models.gguf_shape import DIVISORS
from jaxalign.models.hf_fields import HfFields
from jaxalign.models.rope import Linear, Llama3, Rope
from jaxalign.models.stack import Layer
from jaxalign.types import Params

FILE = pathlib.Path("config.json")


def read(name: str, **changes) -> DecoderConfig:
    """The config of a checkpoint whose fields are changed; ... takes a field away."""
    fields = {**read_json(FOLDER / name / "config.json"), **changes}
    return config_of_hf(HfFields({key: value for key, value in fields.items() if value is not ...}, FILE))


def test_every_family_is_found_and_has_a_checkpoint():
    names = [family.model_type for family in families()]
    print("families:", ", ".join(names))
    assert len(names) >= 8
    assert len(set(names)) == len(names)
    assert {config_of(name).family for name in CHECKPOINTS} == set(families())


# ----------------------------------------------------------------------------------------------------------------------
# config.json


LLAMA3 = Llama3(factor=4.0, low=1.0, high=4.0, context=64)
PARTS = {
    "llama": {"ropes": (Rope(1e4, LLAMA3),), "tied": False, "head_dim": 8, "pattern": (), "biased": False},
    "llama_linear": {"ropes": (Rope(1e4, Linear(2.5)),), "tied": True, "head_dim": 6},
    "mistral": {"pattern": (Layer(6),) * 2},
    "qwen2": {"biased": True, "head_norms": False, "pattern": (Layer(), Layer(6), Layer(6))},
    "qwen3": {"biased": False, "head_norms": True, "pattern": (), "tied": True},
    "qwen3_moe": {"mixture": Mixture(8, 3, 16, True), "head_norms": True},
    "gemma2": {
        "pattern": (Layer(6), Layer(), Layer(6)),
        "score_cap": 2.0,
        "softcap": 3.0,
        "query_scalar": 6.0,
        "norm_offset": 1.0,
        "post_norms": True,
        "activation": "gelu_tanh",
        "embed_scale": 24**0.5,
    },
    "gemma3": {
        "pattern": (Layer(6, 1), Layer(6, 1), Layer(None, 0), Layer(6, 1)),
        "ropes": (Rope(1e6, Linear(4.0)), Rope(1e4)),
        "head_norms": True,
        "score_cap": None,
        "softcap": None,
        "query_scalar": 12.0,
    },
    "smollm3": {"pattern": (Layer(), Layer(rope=None)) * 2, "ropes": (Rope(2e6),)},
}


@pytest.mark.parametrize("name", PARTS)
def test_the_parts_of_each_family(name):
    assert {part: vars(config_of(name))[part] for part in PARTS[name]} == PARTS[name]


@each
def test_a_config_that_is_written_is_read_again(name):
    config = config_of(name)
    assert config_of_hf(HfFields(config.to_hf(), FILE)) == config


OLDER = {
    "llama": {
        "rope_parameters": ...,
        "rope_theta": 1e4,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    },
    "llama_linear": {"rope_parameters": ..., "rope_scaling": {"type": "linear", "factor": 2.5}},
    "qwen2": {"rope_parameters": ..., "rope_theta": 10000, "layer_types": ...},
    "qwen3_moe": {"rope_parameters": ..., "num_local_experts": ..., "num_experts": 8, "mlp_only_layers": None},
    "gemma2": {"rope_parameters": ..., "layer_types": ..., "hidden_act": "gelu_pytorch_tanh", "sliding_window_size": 6},
    "smollm3": {"rope_parameters": {"rope_type": "default"}, "no_rope_layers": ..., "no_rope_layer_interval": 2},
}


@pytest.mark.parametrize("name", OLDER)
def test_older_ways_to_write_a_config_say_the_same(name):
    assert read(name, **OLDER[name]) == config_of(name)


def test_older_ways_to_write_gemma3_say_the_same():
    scaling = {"rope_type": "linear", "factor": 4.0}
    older = read("gemma3", rope_parameters=..., rope_theta=1e6, rope_local_base_freq=1e4, rope_scaling=scaling)
    assert older == config_of("gemma3")
    period = read("gemma3", layer_types=..., _sliding_window_pattern=..., sliding_window_pattern=3)
    assert period == config_of("gemma3")


@pytest.mark.parametrize(
    ("name", "changes", "found"),
    [
        ("mistral", {"sliding_window": None}, ()),
        ("mistral", {"sliding_window": ...}, (Layer(4096),) * 2),
        ("qwen2", {"use_sliding_window": False, "layer_types": ...}, ()),
        ("qwen2", {"max_window_layers": 0, "layer_types": ...}, (Layer(6),) * 3),
        ("qwen3", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1, "layer_types": ...},
         (Layer(), Layer(5))),
        ("smollm3", {"use_sliding_window": True, "sliding_window": 5, "layer_types": ...},
         (Layer(), Layer(5, None)) * 2),
    ],
)  # fmt: skip
def test_windows(name, changes, found):
    assert read(name, **changes).pattern == found


def test_caps_that_are_absent_are_those_of_the_release_and_null_is_none():
    assert read("gemma2", final_logit_softcapping=..., attn_logit_softcapping=...).softcap == 30
    assert read("gemma2", final_logit_softcapping=..., attn_logit_softcapping=...).score_cap == 50
    assert read("gemma2", final_logit_softcapping=None).softcap is None
    assert read("gemma3", final_logit_softcapping=20).softcap == 20


REFUSED = [
    ("llama", {"attention_bias": True}),
    ("llama", {"mlp_bias": True}),
    ("llama", {"hidden_act": "gelu"}),
    ("llama", {"sliding_window": 16}),
    ("llama", {"partial_rotary_factor": 0.5}),
    ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}),
    ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "mscale": 1.0}}),
    ("llama", {"rope_parameters": {"rope_type": "llama3", "factor": 2.0}}),
    ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
    ("llama", {"rope_parameters": [1]}),
    ("qwen2", {"use_mrope": True}),
    ("qwen2", {"layer_types": ["full_attention"]}),
    ("qwen2", {"layer_types": ["full_attention", "chunked_attention", "full_attention"]}),
    ("qwen2", {"use_sliding_window": False}),
    ("qwen2", {"max_window_layers": -1}),
    ("qwen3", {"attention_bias": True}),
    ("qwen3_moe", {"decoder_sparse_step": 2}),
    ("qwen3_moe", {"mlp_only_layers": [0]}),
    ("qwen3_moe", {"use_sliding_window": True}),
    ("qwen3_moe", {"num_local_experts": None}),
    ("qwen3_moe", {"shared_expert_intermediate_size": 8}),
    ("mistral", {"layer_types": ["full_attention", "sliding_attention"]}),
    ("mistral", {"sliding_window": "6"}),
    ("gemma2", {"hidden_activation": "gelu"}),
    ("gemma2", {"use_bidirectional_attention": True}),
    ("gemma2", {"query_pre_attn_scalar": 0}),
    ("gemma2", {"sliding_window_size": 7}),
    ("gemma3", {"attn_logit_softcapping": 50.0}),
    ("gemma3", {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}}),
    ("gemma3", {"rope_parameters": {"full_attention": {"rope_type": "dynamic", "factor": 2.0}}}),
    ("gemma3", {"rope_parameters": {"chunked_attention": {}}}),
    ("gemma3", {"use_bidirectional_attention": True}),
    ("smollm3", {"no_rope_layers": [1, 0]}),
    ("smollm3", {"mlp_bias": True}),
]


NAMED = {"use_sliding_window": "use_sliding_window|layer_types", "num_local_experts": "num_experts"}
"""Where the message names the field that no longer fits."""


@pytest.mark.parametrize(("name", "changes"), REFUSED)
def test_fields_that_are_not_supported_are_refused_by_name(name, changes):
    read(name)
    (field,) = changes
    with pytest.raises(ModelError, match=rf"config\.json: .*({NAMED.get(field, field)})"):
        read(name, **changes)


@each
def test_fields_that_nobody_knows_are_refused_by_name(name):
    with pytest.raises(ModelError, match=r"config\.json: unknown field 'logit_scale' = 2\.0"):
        read(name, logit_scale=2.0)


@pytest.mark.parametrize("model_type", ["gemma3", "qwen3_next", None])
def test_families_that_are_not_here_are_refused_with_those_that_are(model_type):
    with pytest.raises(ModelError, match=f"model_type {model_type!r} is not supported; known are gemma2, gemma3_text"):
        read("llama", model_type=model_type)


# ----------------------------------------------------------------------------------------------------------------------
# Tensors


@each
def test_every_tensor_of_a_checkpoint_has_its_place_and_comes_out_as_it_went_in(name):
    model = opened(name)
    params = model.load()
    paths = {tuple(key.key for key in path) for path, _ in jax.tree_util.tree_leaves_with_path(params)}
    assert {tensor.path for tensor in model.config.tensors()} == paths
    for tensor in model.config.tensors():
        array = np.asarray(leaf(params, tensor.path))
        shape = array.shape[tensor.stacked :]
        for part in tensor.parts(array):
            held = tensor.to_file(part)
            assert held.shape == tensor.file_shape(shape)
            np.testing.assert_array_equal(tensor.from_file(held, shape), part)


# ----------------------------------------------------------------------------------------------------------------------
# GGUF

NAMES = {
    "block_count": "layers",
    "context_length": "context",
    "embedding_length": "width",
    "feed_forward_length": "mlp",
    "attention.head_count": "heads",
    "attention.head_count_kv": "kv_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "norm_eps",
    "rope.freq_base": "rope_base",
}
SPECIAL = {
    "llama": {"rope.dimension_count": 8, "vocab_size": 64, "rope.freq_base": 5e5},
    "llama_linear": {"rope.scaling.type": "linear", "rope.scaling.factor": 2.5},
    "gemma2": {"attention.sliding_window": 6, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    "gemma3": {"attention.sliding_window": 6, "rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
}
SAID = {
    "llama": {"ropes": (Rope(5e5, Llama3(8.0, 1.0, 4.0, 8192)),)},
    "qwen2": {"pattern": ()},
    "gemma2": {"query_scalar": 8.0},
    "gemma3": {"query_scalar": 8.0, "pattern": (Layer(6, 1),) * 4},
}
"""What GGUF cannot say as the checkpoints do: windows in odd layers, other divisors of scores, other RoPE scalings."""
IN_GGUF = [name for name in CHECKPOINTS if isinstance(config_of(name).family, InGguf)]


def write_gguf(path: pathlib.Path, name: str, divisors: np.ndarray, drop: str = "", **changes) -> Params:
    """A checkpoint as llama.cpp's converter writes it; returns its parameters."""
    model = opened(name)
    config, params = model.config, model.load()
    arch = config.family.architecture
    writer = gguf.GGUFWriter(path, arch)
    kinds = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    said = {key: getattr(config, part) for key, part in NAMES.items()} | SPECIAL.get(name, {}) | changes
    for key, value in said.items():
        kinds[type(value)](f"{arch}.{key}", value)
    if name == "llama":
        writer.add_tensor(DIVISORS, divisors.astype(np.float32))
    for tensor in config.tensors():
        for layer, part in enumerate(tensor.parts(np.asarray(leaf(params, tensor.path)))):
            rows = tensor.to_file(part)
            if arch == "llama" and tensor.path[-1] in ("q", "k"):
                rows = rows.reshape(-1, 2, config.head_dim // 2, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)
            if arch.startswith("gemma") and tensor.path[-1] == "scale":
                rows = rows + np.float32(1)
            if tensor.gguf.format(layer) != drop:
                writer.add_tensor(tensor.gguf.format(layer), np.ascontiguousarray(rows))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return params


BLEND = (8192 / (2 * np.pi * 5e5**0.5) - 1) / 3
DIVIDED = np.array([1, 1, 1 / ((1 - BLEND) / 8 + BLEND), 8])
"""Factor 8, head of 8, base 5e5: wavelengths are 6, 167, 4,443 and 118,000 tokens. Those below 8,192 / 4 are kept,
those beyond 8,192 divided, and the third blended."""


@pytest.mark.parametrize("name", IN_GGUF)
def test_gguf_holds_the_same_model(tmp_path, name):
    params = write_gguf(tmp_path / "model.gguf", name, DIVIDED)
    file = GgufFile(tmp_path / "model.gguf")
    found = config_of_gguf(GgufFields(file))
    assert found == dataclasses.replace(config_of(name), **SAID.get(name, {}))
    read = load(file, found.tensors(), opened(name).shapes, lambda path: None)
    # 1 + w - 1 in fp32
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-7), read, params)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        *((name, {"logit_scale": 2.0}, r"logit_scale = 2\.0 is not supported") for name in IN_GGUF),
        ("llama", {"expert_count": 4}, r"llama\.expert_count = 4 is not supported"),
        ("qwen2", {"rope.scaling.type": "yarn"}, r"qwen2\.rope\.scaling\.type = 'yarn'"),
        ("qwen2", {"attention.sliding_window": 6}, r"qwen2\.attention\.sliding_window = 6 is not supported"),
        ("qwen3", {"rope.dimension_count": 4}, "differs from the size of a head, 8"),
        ("gemma3", {"attention.sliding_window_pattern": 4}, r"gemma3\.attention\.sliding_window_pattern = 4"),
        ("gemma3", {"attn_logit_softcapping": 50.0}, r"gemma3\.attn_logit_softcapping = 50"),
        ("gemma2", {"drop": "token_embd.weight"}, "tensor 'token_embd.weight' is missing"),
        ("llama", {"divisors": DIVIDED * [1, 1, 1.01, 1]}, "is not the RoPE scaling of Llama 3"),
        ("llama", {"divisors": DIVIDED[1:]}, "is not the RoPE scaling of Llama 3"),
    ],
)
def test_metadata_that_is_not_supported_is_refused_by_name(tmp_path, name, changes, words):
    write_gguf(tmp_path / "model.gguf", name, **{"divisors": DIVIDED, **changes})
    with pytest.raises(ModelError, match=words) as caught:
        config_of_gguf(GgufFields(GgufFile(tmp_path / "model.gguf")))
    assert "model.gguf" in str(caught.value)


@pytest.mark.parametrize(("name", "layers"), [("gemma2", 46), ("gemma3", 62)])
def test_the_largest_gemmas_divide_scores_by_another_root(tmp_path, name, layers):
    """Nothing but the depth of the 27B models says so: width / heads, 24 / 4, in place of the size of a head."""
    write_gguf(tmp_path / "model.gguf", name, DIVIDED, block_count=layers)
    assert config_of_gguf(GgufFields(GgufFile(tmp_path / "model.gguf"))).query_scalar == 6
