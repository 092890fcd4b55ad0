"""Gemma 2: local and global layers by turns, soft-caps on attention scores and on the scores of the vocabulary.

Gemma Team 2024 (2408.00118). Norms before and after each part keep their scales as distances from 1; GGUF files hold
1 + scale.
"""

import dataclasses
import math
from typing import Any

from jaxalign.formats.weights import Tensor
from jaxalign.models import gguf_shape, hf_shape, tensor_names
from jaxalign.models.decoder import DecoderConfig, Family
from jaxalign.models.gguf_fields import GgufFields
from jaxalign.models.hf_fields import HfFields
from jaxalign.models.rope import Rope
from jaxalign.models.stack import Layer

LARGEST = 46
"""Layers of the 27B model, the only one whose scores are divided by sqrt(width / heads); GGUF does not say."""


@dataclasses.dataclass(frozen=True)
class Gemma2:
    """Sandwich norms, GeGLU, scaled embeddings, windows in every other layer, caps."""

    model_type = "gemma2"
    architecture = "gemma2"

    def from_hf(self, fields: HfFields) -> DecoderConfig:
        plain = read_gemma(fields, self)
        window = fields.optional("sliding_window", int, 4096)
        fields.fixed("sliding_window_size", window)  # says it again in early releases
        local = [window is not None and layer % 2 == 0 for layer in range(plain.layers)]
        return dataclasses.replace(
            plain,
            pattern=hf_shape.read_windows(fields, plain.layers, window, local),
            score_cap=fields.optional("attn_logit_softcapping", float, 50.0),
            softcap=fields.optional("final_logit_softcapping", float, 30.0),
        )

    def to_hf(self, config: DecoderConfig) -> dict[str, Any]:
        return {
            **hf_shape.write_decoder(config, self.model_type, "Gemma2ForCausalLM"),
            **write_gemma(config),
            "attn_logit_softcapping": config.score_cap,
        }

    def from_gguf(self, fields: GgufFields) -> DecoderConfig:
        plain = gemma(gguf_shape.read_decoder(fields, self))
        window = fields.read("attention.sliding_window", int)
        return dataclasses.replace(
            plain,
            pattern=tuple(Layer(window=None if layer % 2 else window) for layer in range(plain.layers)),
            query_scalar=plain.width / plain.heads if plain.layers == LARGEST else float(plain.head_dim),
            score_cap=fields.read("attn_logit_softcapping", float, 50.0),
            softcap=fields.read("final_logit_softcapping", float, 30.0),
        )

    def tensors(self, config: DecoderConfig) -> tuple[Tensor, ...]:
        return (
            *tensor_names.vocabulary(config),
            *tensor_names.sandwich_norms(config),
            *tensor_names.attention(),
            *tensor_names.gated_mlp(),
        )


def gemma(plain: DecoderConfig) -> DecoderConfig:
    """What Gemma 2 and 3 change alike."""
    return dataclasses.replace(
        plain, post_norms=True, norm_offset=1.0, activation="gelu_tanh", embed_scale=math.sqrt(plain.width)
    )


def read_gemma(fields: HfFields, family: Family, ropes: tuple[Rope, ...] | None = None) -> DecoderConfig:
    """What both read alike; `ropes` where the family has read its rotations already."""
    fields.fixed("hidden_activation", "gelu_pytorch_tanh")
    fields.fixed("hidden_act", "gelu_pytorch_tanh")
    fields.fixed("use_bidirectional_attention", False)
    plain = gemma(hf_shape.read_decoder(fields, family, tied=True, head_dim=256, ropes=ropes))
    return dataclasses.replace(plain, query_scalar=fields.read("query_pre_attn_scalar", float, 256.0))


def write_gemma(config: DecoderConfig) -> dict[str, Any]:
    """The fields that both write alike."""
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "query_pre_attn_scalar": whole(config.query_scalar),
        "final_logit_softcapping": config.softcap,
        **hf_shape.write_windows(config),
    }


def whole(number: float | None) -> float | int | None:
    """The same number, as an int where it is one: transformers takes no 256.0 for 256."""
    return int(number) if number is not None and number.is_integer() else number


FAMILY = Gemma2()
