"""Mistral: the plain decoder, every layer looking back over a window of positions.

Jiang et al. 2023 (2310.06825). Later releases have no window. (llama.cpp writes these models as "llama".)
"""

import dataclasses
from typing import Any

from jaxalign.formats.weights import Tensor
from jaxalign.models import hf_shape, tensor_names
from jaxalign.models.decoder import DecoderConfig
from jaxalign.models.hf_fields import HfFields
from jaxalign.models.stack import Layer


@dataclasses.dataclass(frozen=True)
class Mistral:
    """One window for all layers."""

    model_type = "mistral"

    def from_hf(self, fields: HfFields) -> DecoderConfig:
        fields.fixed("hidden_act", "silu")
        plain = hf_shape.read_decoder(fields, self)
        window = fields.optional("sliding_window", int, 4096)
        return dataclasses.replace(plain, pattern=hf_shape.pattern([Layer(window=window)] * plain.layers))

    def to_hf(self, config: DecoderConfig) -> dict[str, Any]:
        return {
            **hf_shape.write_decoder(config, self.model_type, "MistralForCausalLM"),
            "hidden_act": "silu",
            "sliding_window": config.kinds[0].window,
        }

    def tensors(self, config: DecoderConfig) -> tuple[Tensor, ...]:
        return (
            *tensor_names.vocabulary(config),
            *tensor_names.pre_norms(config),
            *tensor_names.attention(),
            *tensor_names.gated_mlp(),
        )


FAMILY = Mistral()
