"""Qwen3 mixtures of experts: Qwen3 with, in every layer, a router and experts in place of the feed-forward layer.

Yang et al. 2025 (2505.09388). All releases have experts in every layer and no windows; anything else is refused.
"""

import dataclasses
from typing import Any

from jaxalign.formats.weights import Tensor
from jaxalign.models import hf_shape, tensor_names
from jaxalign.models.decoder import DecoderConfig
from jaxalign.models.experts import Mixture
from jaxalign.models.hf_fields import HfFields


@dataclasses.dataclass(frozen=True)
class Qwen3Moe:
    """Normalised queries and keys, experts."""

    model_type = "qwen3_moe"

    def from_hf(self, fields: HfFields) -> DecoderConfig:
        fields.fixed("hidden_act", "silu")
        fields.fixed("use_sliding_window", False)
        fields.fixed("decoder_sparse_step", 1)
        fields.fixed("mlp_only_layers", [])
        for unused in ("sliding_window", "max_window_layers"):  # of no effect without windows
            fields.raw(unused)
        experts = hf_shape.few(fields, "num_experts", fields.read("num_experts", int, fields.raw("num_local_experts")))
        mixture = Mixture(
            experts,
            chosen=fields.read("num_experts_per_tok", int),
            mlp=fields.read("moe_intermediate_size", int),
            normalised=fields.read("norm_topk_prob", bool, False),
        )
        plain = hf_shape.read_decoder(fields, self)
        return dataclasses.replace(plain, head_norms=True, mixture=mixture)

    def to_hf(self, config: DecoderConfig) -> dict[str, Any]:
        assert config.mixture is not None
        return {
            **hf_shape.write_decoder(config, self.model_type, "Qwen3MoeForCausalLM"),
            "hidden_act": "silu",
            "attention_bias": False,
            "use_sliding_window": False,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "num_experts": config.mixture.experts,
            "num_experts_per_tok": config.mixture.chosen,
            "moe_intermediate_size": config.mixture.mlp,
            "norm_topk_prob": config.mixture.normalised,
        }

    def tensors(self, config: DecoderConfig) -> tuple[Tensor, ...]:
        return (
            *tensor_names.vocabulary(config),
            *tensor_names.pre_norms(config),
            *tensor_names.attention(),
            *tensor_names.head_norms(config),
            *tensor_names.experts(),
        )


FAMILY = Qwen3Moe()
