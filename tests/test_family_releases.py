"""Released models of every family: their config.json is read, and their parameters are as many as published."""

import math
import pathlib

import jax
import pytest
from flax import nnx

from jaxalign.models.family import config_of_hf, families
from jaxalign.models.hf_fields import HfFields
from jaxalign.models.rope import Llama3, Rope
from jaxalign.models.stack import Layer

LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
TYPES = {True: "sliding_attention", False: "full_attention"}


def sizes(layers: int, width: int, mlp: int, heads: int, kv_heads: int, vocab: int, context: int, **others) -> dict:
    return {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "intermediate_size": mlp,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "max_position_embeddings": context,
        "initializer_range": 0.02,
        "attention_dropout": 0.0,
        "use_cache": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.51.0",
        **others,
    }


QWEN = {"hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1e6, "use_sliding_window": False}
GEMMA = {"hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6, "attention_bias": False, "head_dim": 256}
RELEASES = {
    "Llama 2 7B": (
        6_738_415_616,
        sizes(32, 4096, 11008, 32, 32, 32000, 4096, model_type="llama", rms_norm_eps=1e-5, rope_scaling=None,
              hidden_act="silu", pretraining_tp=1, tie_word_embeddings=False),
    ),
    "Llama 3.1 8B": (
        8_030_261_248,
        sizes(32, 4096, 14336, 32, 8, 128256, 131072, model_type="llama", rms_norm_eps=1e-5, rope_theta=5e5,
              rope_scaling=LLAMA3, attention_bias=False, mlp_bias=False, eos_token_id=[128001, 128008, 128009],
              hidden_act="silu", tie_word_embeddings=False),
    ),
    "SmolLM2 135M": (
        134_515_008,
        sizes(30, 576, 1536, 9, 3, 49152, 8192, model_type="llama", rms_norm_eps=1e-5, rope_theta=1e5,
              is_llama_config=True, rope_interleaved=False, hidden_act="silu", tie_word_embeddings=True),
    ),
    "Mistral 7B 0.1": (
        7_241_732_096,
        sizes(32, 4096, 14336, 32, 8, 32000, 32768, model_type="mistral", rms_norm_eps=1e-5, rope_theta=1e4,
              sliding_window=4096, hidden_act="silu", tie_word_embeddings=False),
    ),
    "Qwen2 1.5B": (
        1_543_714_304,
        sizes(28, 1536, 8960, 12, 2, 151936, 131072, model_type="qwen2", **QWEN, sliding_window=131072,
              max_window_layers=28, tie_word_embeddings=True),
    ),
    "Qwen3 8B": (
        8_190_735_360,
        sizes(36, 4096, 12288, 32, 8, 151936, 40960, model_type="qwen3", **QWEN, head_dim=128, attention_bias=False,
              sliding_window=None, max_window_layers=36, rope_scaling=None, tie_word_embeddings=False),
    ),
    "Qwen3 30B-A3B": (
        30_532_122_624,
        sizes(48, 2048, 6144, 32, 4, 151936, 40960, model_type="qwen3_moe", **QWEN, head_dim=128, attention_bias=False,
              sliding_window=None, max_window_layers=48, rope_scaling=None, tie_word_embeddings=False, num_experts=128,
              num_experts_per_tok=8, moe_intermediate_size=768, norm_topk_prob=True, decoder_sparse_step=1,
              mlp_only_layers=[], output_router_logits=False, router_aux_loss_coef=0.001),
    ),
    "Gemma 2 2B": (
        2_614_341_888,
        sizes(26, 2304, 9216, 8, 4, 256000, 8192, model_type="gemma2", **GEMMA, rope_theta=1e4, sliding_window=4096,
              hidden_act="gelu_pytorch_tanh", cache_implementation="hybrid", query_pre_attn_scalar=256,
              attn_logit_softcapping=50.0, final_logit_softcapping=30.0),
    ),
    "Gemma 3 270M": (
        268_098_176,
        sizes(18, 640, 2048, 4, 1, 262144, 32768, model_type="gemma3_text", **GEMMA, rope_theta=1e6,
              rope_local_base_freq=1e4, rope_scaling=None, sliding_window=512, _sliding_window_pattern=6,
              layer_types=[TYPES[layer % 6 != 5] for layer in range(18)], query_pre_attn_scalar=256,
              attn_logit_softcapping=None, final_logit_softcapping=None, use_bidirectional_attention=False),
    ),
    "SmolLM3 3B": (
        3_075_098_624,
        sizes(36, 2048, 11008, 16, 4, 128256, 65536, model_type="smollm3", hidden_act="silu", rms_norm_eps=1e-6,
              rope_theta=5e6, rope_scaling=None, attention_bias=False, mlp_bias=False, pretraining_tp=2,
              sliding_window=None, use_sliding_window=False, max_window_layers=28, no_rope_layer_interval=4,
              no_rope_layers=[int(layer % 4 != 3) for layer in range(36)], layer_types=[TYPES[False]] * 36),
    ),
}  # fmt: skip


def read(name: str):
    return config_of_hf(HfFields(RELEASES[name][1], pathlib.Path("config.json")))


def test_every_family_has_a_release_here():
    assert {read(name).family for name in RELEASES} == set(families())


@pytest.mark.parametrize("name", RELEASES)
def test_parameters_are_as_many_as_published(name):
    config = read(name)
    assert not list(config.problems())
    state = nnx.state(nnx.eval_shape(config.module))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state)) == RELEASES[name][0]


def test_what_is_special_in_releases():
    assert read("Llama 3.1 8B").ropes == (Rope(5e5, Llama3(8.0, 1.0, 4.0, 8192)),)
    assert read("Mistral 7B 0.1").pattern == (Layer(4096),) * 32
    assert read("Qwen2 1.5B").pattern == read("Qwen3 8B").pattern == ()
    assert read("Gemma 2 2B").pattern == (Layer(4096), Layer()) * 13
    assert read("Gemma 3 270M").pattern == ((*(Layer(512, 1),) * 5, Layer()) * 3)
    assert read("SmolLM3 3B").pattern == ((*(Layer(),) * 3, Layer(rope=None)) * 9)
