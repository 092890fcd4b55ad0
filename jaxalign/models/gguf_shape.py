"""What the GGUF metadata of every family says alike: sizes, numerics and rotations.

Llama 3's RoPE scaling is not among the metadata: llama.cpp's converter stores what it divides each frequency by, as the
tensor "rope_freqs.weight". The scaling that gives these numbers is found and anything else refused.
"""

import numpy as np

from jaxalign.errors import ModelError
from jaxalign.models.decoder import DecoderConfig, Family
from jaxalign.models.gguf_fields import GgufFields
from jaxalign.models.hf_shape import MOST
from jaxalign.models.rope import Linear, Llama3, Rope

DIVISORS = "rope_freqs.weight"


def read_decoder(fields: GgufFields, family: Family, base: float = 1e4) -> DecoderConfig:
    """The config of a family's plain decoder; `base` (of the rotation) stands for a field that is absent.

    Raises ModelError naming a field that is missing, mistyped or not supported.
    """
    heads, width = fields.read("attention.head_count", int), fields.read("embedding_length", int)
    head_dim = fields.read("attention.key_length", int, width // max(heads, 1))
    for name in ("attention.value_length", "rope.dimension_count"):
        if (found := fields.read(name, int, head_dim)) != head_dim:
            raise ModelError(
                f"{fields.path}: {fields.full(name)} = {found} differs from the size of a head, {head_dim}"
            )
    for name in ("expert_count", "expert_used_count"):
        fields.fixed(name, 0)
    layers, vocab = fields.read("block_count", int), fields.shape("token_embd.weight")[0]
    if layers > MOST:
        raise fields.fail("block_count")
    fields.fixed("vocab_size", vocab)
    return DecoderConfig(
        family,
        layers=layers,
        width=width,
        mlp=fields.read("feed_forward_length", int),
        heads=heads,
        kv_heads=fields.read("attention.head_count_kv", int, heads),
        head_dim=head_dim,
        vocab=vocab,
        ropes=(read_rope(fields, head_dim, base),),
        norm_eps=fields.read("attention.layer_norm_rms_epsilon", float),
        tied=not fields.holds("output.weight"),
        context=fields.read("context_length", int),
    )


def read_rope(fields: GgufFields, head_dim: int, base: float) -> Rope:
    """The rotation of the metadata, scaled by the divisors where there are any."""
    base = fields.read("rope.freq_base", float, base)
    fields.fixed("rope.scaling.type", "none", "linear")
    if fields.present("rope.scaling.type") and fields.read("rope.scaling.type", str) == "linear":
        return Rope(base, Linear(fields.read("rope.scaling.factor", float)))
    fields.fixed("rope.scaling.factor", 1.0)
    return Rope(base, read_divisors(fields, Rope(base), head_dim)) if fields.holds(DIVISORS) else Rope(base)


def read_divisors(fields: GgufFields, rope: Rope, head_dim: int) -> Llama3:
    """Llama 3's scaling as all its releases have it (low 1, high 4, 8,192 tokens); the factor is the last divisor."""
    divisors = fields.values(DIVISORS).reshape(-1)
    scaling = Llama3(float(divisors[-1]), low=1.0, high=4.0, context=8192)
    plain = np.asarray(rope.frequencies(head_dim))
    expected = plain / np.asarray(Rope(rope.base, scaling).frequencies(head_dim))
    # both sides are fp32 through about five operations; other parameters differ in the first or second digit
    if divisors.shape != expected.shape or not np.allclose(divisors, expected, rtol=1e-4):
        raise ModelError(
            f"{fields.path}: tensor {DIVISORS!r} is not the RoPE scaling of Llama 3, so it is not supported"
        )
    return scaling
