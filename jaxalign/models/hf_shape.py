"""What the config.json of every family says alike: sizes, numerics and rotations, read and written.

Rotations come in two forms: "rope_parameters" (transformers 5) holds base and scaling together; before, "rope_theta"
was the base and "rope_scaling" the scaling. Both are read; the older form, which both versions read, is written.
"""

from collections.abc import Iterable
from typing import Any

from jaxalign.models.decoder import DecoderConfig, Family
from jaxalign.models.hf_fields import HfFields
from jaxalign.models.rope import Linear, Llama3, Rope
from jaxalign.models.stack import Layer

LAYER_TYPES = ("full_attention", "sliding_attention")
MOST = 10_000
"""Layers, or experts of one, far above any release: a damaged count would take all memory before weights say no."""


def read_decoder(
    fields: HfFields,
    family: Family,
    tied: bool = False,
    base: float = 1e4,
    head_dim: int | None = None,
    ropes: tuple[Rope, ...] | None = None,
) -> DecoderConfig:
    """The config of a family's plain decoder. `tied`, `base` (of the rotation) and `head_dim` stand for absent fields.

    `ropes` are the rotations where the family has read them already. Raises ModelError naming a field that is missing,
    mistyped or not supported.
    """
    heads, width = fields.read("num_attention_heads", int), fields.read("hidden_size", int)
    context = fields.read("max_position_embeddings", int, 2048)
    fields.fixed("attention_bias", False)
    fields.fixed("mlp_bias", False)
    fields.fixed("rope_interleaved", False)
    fields.fixed("partial_rotary_factor", 1.0)
    fields.fixed("quantization_config")
    return DecoderConfig(
        family,
        layers=few(fields, "num_hidden_layers", fields.read("num_hidden_layers", int)),
        width=width,
        mlp=fields.read("intermediate_size", int),
        heads=heads,
        kv_heads=fields.read("num_key_value_heads", int, heads),
        head_dim=fields.read("head_dim", int, head_dim or width // heads),
        vocab=fields.read("vocab_size", int),
        ropes=ropes or (read_rope(fields, base, context),),
        norm_eps=fields.read("rms_norm_eps", float, 1e-6),
        tied=fields.read("tie_word_embeddings", bool, tied),
        context=context,
    )


def few(fields: HfFields, name: str, count: int) -> int:
    """The count of layers or experts, of which each is named here. ModelError where it is one of no model."""
    if count > MOST:
        raise fields.fail(name, f"= {count}: no model has more than {MOST}")
    return count


def read_rope(fields: HfFields, base: float, context: int) -> Rope:
    """The one rotation of a config, in either form."""
    theta = fields.read("rope_theta", float, base)
    given = [found for name in ("rope_parameters", "rope_scaling") if (found := fields.nested(name)) and found.fields]
    if len(given) > 1:
        raise fields.fail("rope_scaling", "and rope_parameters are both given; keep one")
    return read_scaled(given[0], theta, context) if given else Rope(theta)


def read_scaled(fields: HfFields, base: float, context: int) -> Rope:
    """A rotation from the object that describes it; `base` and `context` stand for what it leaves out."""
    kind = fields.read("rope_type", str, fields.raw("type") or "default")
    fields.fixed("partial_rotary_factor", 1.0)
    base = fields.read("rope_theta", float, base)
    scaling: Linear | Llama3 | None = None
    if kind == "linear":
        scaling = Linear(fields.read("factor", float))
    elif kind == "llama3":
        scaling = Llama3(
            fields.read("factor", float),
            fields.read("low_freq_factor", float),
            fields.read("high_freq_factor", float),
            fields.read("original_max_position_embeddings", int, context),
        )
    elif kind != "default":
        raise fields.fail("rope_type", f"{kind!r} is not supported; known are 'default', 'linear', 'llama3'")
    fields.close()
    return Rope(base, scaling)


def read_windows(fields: HfFields, layers: int, window: int | None, default: list[bool]) -> tuple[Layer, ...]:
    """The pattern of "layer_types", or of `default` (whether each layer sees a window) where there are none."""
    types = fields.each("layer_types", LAYER_TYPES, layers)
    local = default if types is None else [name == "sliding_attention" for name in types]
    if window is None and any(local):
        raise fields.fail("layer_types", "has sliding layers, but there is no sliding_window in use")
    return pattern(Layer(window=window if one else None) for one in local)


def read_late_windows(fields: HfFields, plain: DecoderConfig) -> tuple[Layer, ...]:
    """The pattern of models that may have windows, in use or not, from layer "max_window_layers" on."""
    used, first = fields.read("use_sliding_window", bool, False), fields.index("max_window_layers", 28)
    window = fields.optional("sliding_window", int, 4096)
    late = [used and window is not None and layer >= first for layer in range(plain.layers)]
    return read_windows(fields, plain.layers, window if used else None, late)


def pattern(layers: Iterable[Layer]) -> tuple[Layer, ...]:
    """The layers as a config keeps them: none where all are plain."""
    listed = tuple(layers)
    return listed if any(layer != Layer() for layer in listed) else ()


def write_decoder(config: DecoderConfig, model_type: str, architecture: str) -> dict[str, Any]:
    """The fields that every family writes alike."""
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "hidden_size": config.width,
        "intermediate_size": config.mlp,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab,
        "rope_theta": config.rope_base,
        **write_scaling(config.ropes[0]),
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied,
        "max_position_embeddings": config.context,
    }


def write_scaling(rope: Rope) -> dict[str, Any]:
    """The field "rope_scaling", where there is a scaling."""
    scaling = rope.scaling
    if scaling is None:
        return {}
    if isinstance(scaling, Linear):
        return {"rope_scaling": {"rope_type": "linear", "factor": scaling.factor}}
    return {
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low,
            "high_freq_factor": scaling.high,
            "original_max_position_embeddings": scaling.context,
        }
    }


def write_windows(config: DecoderConfig) -> dict[str, Any]:
    """The fields "sliding_window" and "layer_types"."""
    windows = [kind.window for kind in config.kinds if kind.window is not None]
    types = [LAYER_TYPES[kind.window is not None] for kind in config.kinds]
    return {"sliding_window": windows[0] if windows else None, "layer_types": types}


def write_late_windows(config: DecoderConfig) -> dict[str, Any]:
    """What `read_late_windows` reads."""
    local = [kind.window is not None for kind in config.kinds]
    first = local.index(True) if any(local) else config.layers
    return {"use_sliding_window": any(local), "max_window_layers": first, **write_windows(config)}
