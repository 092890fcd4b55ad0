"""SmolLM3: the plain decoder, some of whose layers (every fourth) rotate nothing.

Hugging Face 2025 (config and code of SmolLM3-3B); layers without positions: Yang et al. 2025 (2501.18795).
"""

import dataclasses
from typing import Any

from jaxalign.formats.weights import Tensor
from jaxalign.models import hf_shape, tensor_names
from jaxalign.models.decoder import DecoderConfig
from jaxalign.models.hf_fields import HfFields


@dataclasses.dataclass(frozen=True)
class SmolLM3:
    """Rotated and unrotated layers, either of which may have windows."""

    model_type = "smollm3"

    def from_hf(self, fields: HfFields) -> DecoderConfig:
        fields.fixed("hidden_act", "silu")
        plain = hf_shape.read_decoder(fields, self, tied=True, base=2e6)
        interval = fields.read("no_rope_layer_interval", int, 4)
        every = [int((layer + 1) % interval != 0) for layer in range(plain.layers)]
        rotated = fields.each("no_rope_layers", (0, 1), plain.layers) or every
        used, window = fields.read("use_sliding_window", bool, False), fields.optional("sliding_window", int, None)
        fields.index("max_window_layers", 0)  # of no effect in this family
        local = [used and window is not None and not turns for turns in rotated]
        windows = hf_shape.read_windows(fields, plain.layers, window if used else None, local)
        listed = dataclasses.replace(plain, pattern=windows).kinds
        turned = (
            dataclasses.replace(layer, rope=0 if turns else None) for layer, turns in zip(listed, rotated, strict=True)
        )
        return dataclasses.replace(plain, pattern=hf_shape.pattern(turned))

    def to_hf(self, config: DecoderConfig) -> dict[str, Any]:
        windows = hf_shape.write_windows(config)
        return {
            **hf_shape.write_decoder(config, self.model_type, "SmolLM3ForCausalLM"),
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "no_rope_layers": [int(kind.rope is not None) for kind in config.kinds],
            "use_sliding_window": windows["sliding_window"] is not None,
            **windows,
        }

    def tensors(self, config: DecoderConfig) -> tuple[Tensor, ...]:
        return (
            *tensor_names.vocabulary(config),
            *tensor_names.pre_norms(config),
            *tensor_names.attention(),
            *tensor_names.gated_mlp(),
        )


FAMILY = SmolLM3()
