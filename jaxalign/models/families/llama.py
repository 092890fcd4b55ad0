"""Llama 2, 3 and 3.x, and what follows them to the letter (SmolLM2): the plain decoder.

Touvron et al. 2023 (2302.13971, 2307.09288); Llama 3: 2407.21783. GGUF files of this architecture, and only of this
one, keep the rows of queries and keys interleaved.
"""

import dataclasses
from typing import Any

from jaxalign.formats.weights import Tensor
from jaxalign.models import gguf_shape, hf_shape, tensor_names
from jaxalign.models.decoder import DecoderConfig
from jaxalign.models.gguf_fields import GgufFields
from jaxalign.models.hf_fields import HfFields


@dataclasses.dataclass(frozen=True)
class Llama:
    """Norms before each part, rotations, grouped queries, SwiGLU; tied or untied."""

    model_type = "llama"
    architecture = "llama"

    def from_hf(self, fields: HfFields) -> DecoderConfig:
        fields.fixed("hidden_act", "silu")
        fields.fixed("sliding_window")
        return hf_shape.read_decoder(fields, self)

    def to_hf(self, config: DecoderConfig) -> dict[str, Any]:
        return {
            **hf_shape.write_decoder(config, self.model_type, "LlamaForCausalLM"),
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
        }

    def from_gguf(self, fields: GgufFields) -> DecoderConfig:
        return gguf_shape.read_decoder(fields, self)

    def tensors(self, config: DecoderConfig) -> tuple[Tensor, ...]:
        return (
            *tensor_names.vocabulary(config),
            *tensor_names.pre_norms(config),
            *tensor_names.attention(pairs=config.head_dim),
            *tensor_names.gated_mlp(),
        )


FAMILY = Llama()
