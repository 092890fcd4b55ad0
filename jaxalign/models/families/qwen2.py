"""Qwen2 and Qwen2.5: the plain decoder with biases on queries, keys and values, and windows in its last layers.

Yang et al. 2024 (2407.10671, 2412.15115). Releases leave the windows off.
"""

import dataclasses
from typing import Any

from jaxalign.formats.weights import Tensor
from jaxalign.models import gguf_shape, hf_shape, tensor_names
from jaxalign.models.decoder import DecoderConfig
from jaxalign.models.gguf_fields import GgufFields
from jaxalign.models.hf_fields import HfFields


@dataclasses.dataclass(frozen=True)
class Qwen2:
    """Biased queries, keys and values."""

    model_type = "qwen2"
    architecture = "qwen2"

    def from_hf(self, fields: HfFields) -> DecoderConfig:
        fields.fixed("hidden_act", "silu")
        fields.fixed("use_mrope", False)
        plain = hf_shape.read_decoder(fields, self)
        return dataclasses.replace(plain, biased=True, pattern=hf_shape.read_late_windows(fields, plain))

    def to_hf(self, config: DecoderConfig) -> dict[str, Any]:
        return {
            **hf_shape.write_decoder(config, self.model_type, "Qwen2ForCausalLM"),
            "hidden_act": "silu",
            **hf_shape.write_late_windows(config),
        }

    def from_gguf(self, fields: GgufFields) -> DecoderConfig:
        return dataclasses.replace(gguf_shape.read_decoder(fields, self), biased=True)

    def tensors(self, config: DecoderConfig) -> tuple[Tensor, ...]:
        return (
            *tensor_names.vocabulary(config),
            *tensor_names.pre_norms(config),
            *tensor_names.attention(),
            *tensor_names.attention_biases(),
            *tensor_names.gated_mlp(),
        )


FAMILY = Qwen2()
