"""Gemma 3, text: five local layers for each global one, with a rotation of their own, and norms of queries and keys.

Gemma Team 2025 (2503.19786). Norms before and after each part keep their scales as distances from 1; GGUF files hold
1 + scale. Models that also see images ("gemma3") are another family.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

from jaxalign.formats.weights import Tensor
from jaxalign.models import gguf_shape, hf_shape, tensor_names
from jaxalign.models.decoder import DecoderConfig
from jaxalign.models.families.gemma2 import gemma, read_gemma, write_gemma
from jaxalign.models.gguf_fields import GgufFields
from jaxalign.models.hf_fields import HfFields
from jaxalign.models.rope import Rope
from jaxalign.models.stack import Layer

GLOBAL, LOCAL = 0, 1
"""The two rotations."""
BASES = (1e6, 1e4)
PERIOD = 6
"""Every sixth layer is global."""
LARGEST = 62
"""Layers of the 27B model, the only one whose scores are divided by sqrt(width / heads); GGUF does not say."""


@dataclasses.dataclass(frozen=True)
class Gemma3:
    """Gemma 2 with normalised queries and keys instead of capped scores, and two rotations."""

    model_type = "gemma3_text"
    architecture = "gemma3"

    def from_hf(self, fields: HfFields) -> DecoderConfig:
        fields.fixed("attn_logit_softcapping")
        plain = read_gemma(fields, self, read_ropes(fields))
        window = fields.optional("sliding_window", int, 4096)
        period = fields.read("_sliding_window_pattern", int, fields.read("sliding_window_pattern", int, PERIOD))
        windows = hf_shape.read_windows(fields, plain.layers, window, every(period, plain.layers))
        return dataclasses.replace(
            plain,
            pattern=rotated(dataclasses.replace(plain, pattern=windows).kinds),
            head_norms=True,
            softcap=fields.optional("final_logit_softcapping", float, None),
        )

    def to_hf(self, config: DecoderConfig) -> dict[str, Any]:
        return {
            **hf_shape.write_decoder(config, self.model_type, "Gemma3ForCausalLM"),
            "rope_local_base_freq": config.ropes[LOCAL].base,
            **write_gemma(config),
        }

    def from_gguf(self, fields: GgufFields) -> DecoderConfig:
        plain = gemma(gguf_shape.read_decoder(fields, self, BASES[GLOBAL]))
        fields.fixed("attention.sliding_window_pattern", PERIOD)
        window = fields.read("attention.sliding_window", int)
        local = (Layer(window=window if one else None) for one in every(PERIOD, plain.layers))
        return dataclasses.replace(
            plain,
            ropes=(*plain.ropes, Rope(fields.read("rope.freq_base_swa", float, BASES[LOCAL]))),
            pattern=rotated(local),
            head_norms=True,
            query_scalar=plain.width / plain.heads if plain.layers == LARGEST else float(plain.head_dim),
        )

    def tensors(self, config: DecoderConfig) -> tuple[Tensor, ...]:
        return (
            *tensor_names.vocabulary(config),
            *tensor_names.sandwich_norms(config),
            *tensor_names.attention(),
            *tensor_names.head_norms(config),
            *tensor_names.gated_mlp(),
        )


def every(period: int, layers: int) -> list[bool]:
    """Whether each layer is local: all but each `period`-th."""
    return [bool((layer + 1) % period) for layer in range(layers)]


def rotated(kinds: Iterable[Layer]) -> tuple[Layer, ...]:
    """The pattern in which layers with a window use the local rotation."""
    return hf_shape.pattern(dataclasses.replace(kind, rope=GLOBAL if kind.window is None else LOCAL) for kind in kinds)


def read_ropes(fields: HfFields) -> tuple[Rope, Rope]:
    """The global and the local rotation. "rope_parameters" describes them apart, by the types of layers."""
    context = fields.read("max_position_embeddings", int, 131_072)
    local = fields.read("rope_local_base_freq", float, BASES[LOCAL])
    both = fields.nested("rope_parameters")
    if both is None:
        return hf_shape.read_rope(fields, BASES[GLOBAL], context), Rope(local)
    fields.fixed("rope_scaling")
    bases = (fields.read("rope_theta", float, BASES[GLOBAL]), local)
    found = tuple(
        Rope(base) if (one := both.nested(name)) is None else hf_shape.read_scaled(one, base, context)
        for name, base in zip(hf_shape.LAYER_TYPES, bases, strict=True)
    )
    both.close()
    if found[LOCAL].scaling is not None:
        raise both.fail("sliding_attention", "scales its rotation, which is not supported")
    return found[GLOBAL], found[LOCAL]


FAMILY = Gemma3()
