"""Qwen3, dense: the plain decoder with norms of queries and keys, and windows in its last layers.

Yang et al. 2025 (2505.09388). Releases leave the windows off.
"""

import dataclasses
from typing import Any

from jaxalign.formats.weights import Tensor
from jaxalign.models import gguf_shape, hf_shape, tensor_names
from jaxalign.models.decoder import DecoderConfig
from jaxalign.models.gguf_fields import GgufFields
from jaxalign.models.hf_fields import HfFields


@dataclasses.dataclass(frozen=True)
class Qwen3:
    """Queries and keys normalised head by head."""

    model_type = "qwen3"
    architecture = "qwen3"

    def from_hf(self, fields: HfFields) -> DecoderConfig:
        fields.fixed("hidden_act", "silu")
        plain = hf_shape.read_decoder(fields, self, head_dim=128)
        return dataclasses.replace(plain, head_norms=True, pattern=hf_shape.read_late_windows(fields, plain))

    def to_hf(self, config: DecoderConfig) -> dict[str, Any]:
        return {
            **hf_shape.write_decoder(config, self.model_type, "Qwen3ForCausalLM"),
            "hidden_act": "silu",
            "attention_bias": False,
            **hf_shape.write_late_windows(config),
        }

    def from_gguf(self, fields: GgufFields) -> DecoderConfig:
        return dataclasses.replace(gguf_shape.read_decoder(fields, self), head_norms=True)

    def tensors(self, config: DecoderConfig) -> tuple[Tensor, ...]:
        return (
            *tensor_names.vocabulary(config),
            *tensor_names.pre_norms(config),
            *tensor_names.attention(),
            *tensor_names.head_norms(config),
            *tensor_names.gated_mlp(),
        )


FAMILY = Qwen3()
