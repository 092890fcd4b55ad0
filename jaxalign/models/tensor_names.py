"""Names of a decoder's parameters in Hugging Face and GGUF files, in the parts that families put together.

HF's "{}" is the layer, then the expert. What a family names in its own way it lists itself.
"""

from jaxalign.formats.weights import Tensor
from jaxalign.models.decoder import DecoderConfig

HF, GGUF = "model.layers.{}.", "blk.{}."


def norm(path: str, hf: str, gguf: str, config: DecoderConfig) -> Tensor:
    """The scales of a norm in each layer. GGUF adds the offset that the module adds here."""
    return Tensor(("blocks", *path.split("."), "scale"), HF + hf, GGUF + gguf, offset=config.norm_offset)


def vocabulary(config: DecoderConfig) -> tuple[Tensor, ...]:
    """Embeddings, the last norm and, where it is not tied, the matrix that scores the vocabulary."""
    return (
        Tensor(("embed",), "model.embed_tokens.weight", "token_embd.weight"),
        Tensor(("norm", "scale"), "model.norm.weight", "output_norm.weight", offset=config.norm_offset),
        *(() if config.tied else (Tensor(("head",), "lm_head.weight", "output.weight"),)),
    )


def pre_norms(config: DecoderConfig) -> tuple[Tensor, ...]:
    """The norms before attention and feed-forward layers, where there are none after them."""
    return (
        norm("attention_norm", "input_layernorm.weight", "attn_norm.weight", config),
        norm("mlp_norm", "post_attention_layernorm.weight", "ffn_norm.weight", config),
    )


def sandwich_norms(config: DecoderConfig) -> tuple[Tensor, ...]:
    """The norms before and after attention and feed-forward layers."""
    return (
        norm("attention_norm", "input_layernorm.weight", "attn_norm.weight", config),
        norm("attention_post_norm", "post_attention_layernorm.weight", "post_attention_norm.weight", config),
        norm("mlp_norm", "pre_feedforward_layernorm.weight", "ffn_norm.weight", config),
        norm("mlp_post_norm", "post_feedforward_layernorm.weight", "post_ffw_norm.weight", config),
    )


def attention(pairs: int = 0) -> tuple[Tensor, ...]:
    """The four matrices; `pairs` as in `Tensor`."""
    block, hf = ("blocks", "attention"), HF + "self_attn."
    return (
        Tensor((*block, "q"), hf + "q_proj.weight", GGUF + "attn_q.weight", 1, pairs=pairs),
        Tensor((*block, "k"), hf + "k_proj.weight", GGUF + "attn_k.weight", 1, pairs=pairs),
        Tensor((*block, "v"), hf + "v_proj.weight", GGUF + "attn_v.weight", 1),
        Tensor((*block, "o"), hf + "o_proj.weight", GGUF + "attn_output.weight", 2),
    )


def attention_biases() -> tuple[Tensor, ...]:
    """Of queries, keys and values."""
    block, hf = ("blocks", "attention"), HF + "self_attn."
    return tuple(
        Tensor((*block, f"{x}_bias"), hf + f"{x}_proj.bias", GGUF + f"attn_{x}.bias", 0) for x in ("q", "k", "v")
    )


def head_norms(config: DecoderConfig) -> tuple[Tensor, ...]:
    """Of queries and keys."""
    return tuple(
        norm(f"attention.{x}_norm", f"self_attn.{x}_norm.weight", f"attn_{x}_norm.weight", config) for x in ("q", "k")
    )


def gated_mlp() -> tuple[Tensor, ...]:
    """The three matrices of a feed-forward layer."""
    return tuple(
        Tensor(("blocks", "mlp", x), HF + f"mlp.{x}_proj.weight", GGUF + f"ffn_{x}.weight", 1)
        for x in ("gate", "up", "down")
    )


def experts() -> tuple[Tensor, ...]:
    """The router and every expert's three matrices, a file tensor each."""
    block = ("blocks", "mlp")
    return (
        Tensor((*block, "router"), HF + "mlp.gate.weight", None, 1),
        *(Tensor((*block, x), HF + f"mlp.experts.{{}}.{x}_proj.weight", None, 1) for x in ("gate", "up", "down")),
    )
