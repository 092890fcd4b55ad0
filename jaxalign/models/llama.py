"""The Llama family: pre-norm decoder, RoPE, grouped-query attention, SwiGLU, tied or untied output matrix.

Touvron et al. 2023 (2302.13971) and 2023 (2307.09288). Rows and prefill scan over stacked layers, so compile time
and program size do not grow with depth; decoding unrolls them, because a cache in a scan is copied at every token.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxalign.errors import ModelError
from jaxalign.gguf import GgufFile
from jaxalign.models.layers import Angles, Attention, KeyValue, RMSNorm, SwiGLU, angles, parameter
from jaxalign.weights import Tensor

Dtype = Literal["float32", "bfloat16"]
Remat = Literal["none", "full", "dots"]

REMAT: Mapping[str, Callable[..., bool] | None] = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
"""What the backward pass keeps of a layer: nothing, or the results of its matrix products. "none" keeps all."""

Cache = tuple[KeyValue, ...]
Column = tuple[Float[Array, "n k h 1"], Float[Array, "n k 1 h"]]


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """Shape and numerics; `context` is the longest row in tokens."""

    layers: int
    width: int
    mlp: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    rope_base: float = 1e4
    norm_eps: float = 1e-5
    tied: bool = True
    context: int = 2048
    compute_dtype: Dtype = "float32"
    remat: Remat = "none"

    @property
    def output(self) -> str:
        """Name of the parameter whose rows score the vocabulary."""
        return "embed" if self.tied else "head"

    def problems(self) -> Iterable[str]:
        """What makes this shape impossible."""
        sizes = ("layers", "width", "mlp", "heads", "kv_heads", "head_dim", "vocab", "context")
        yield from (f"{name} must be at least 1" for name in sizes if dataclasses.asdict(self)[name] < 1)
        if self.kv_heads > 0 and self.heads % self.kv_heads:
            yield f"{self.heads} query heads cannot be shared out evenly to {self.kv_heads} KV heads"
        if self.head_dim % 2:
            yield f"head_dim {self.head_dim} is odd; rotations need pairs"

    def module(self) -> "Llama":
        return Llama(self)

    def tensors(self) -> tuple[Tensor, ...]:
        """Where each parameter lies in Hugging Face and GGUF files."""
        block, hf, gguf = ("blocks",), "model.layers.{}.", "blk.{}."
        h = self.head_dim
        return (
            Tensor(("embed",), "model.embed_tokens.weight", "token_embd.weight"),
            Tensor(("norm", "scale"), "model.norm.weight", "output_norm.weight"),
            *(() if self.tied else (Tensor(("head",), "lm_head.weight", "output.weight"),)),
            Tensor((*block, "attention_norm", "scale"), hf + "input_layernorm.weight", gguf + "attn_norm.weight"),
            Tensor((*block, "mlp_norm", "scale"), hf + "post_attention_layernorm.weight", gguf + "ffn_norm.weight"),
            Tensor((*block, "attention", "q"), hf + "self_attn.q_proj.weight", gguf + "attn_q.weight", 1, pairs=h),
            Tensor((*block, "attention", "k"), hf + "self_attn.k_proj.weight", gguf + "attn_k.weight", 1, pairs=h),
            Tensor((*block, "attention", "v"), hf + "self_attn.v_proj.weight", gguf + "attn_v.weight", 1),
            Tensor((*block, "attention", "o"), hf + "self_attn.o_proj.weight", gguf + "attn_output.weight", 2),
            Tensor((*block, "mlp", "gate"), hf + "mlp.gate_proj.weight", gguf + "ffn_gate.weight", 1),
            Tensor((*block, "mlp", "up"), hf + "mlp.up_proj.weight", gguf + "ffn_up.weight", 1),
            Tensor((*block, "mlp", "down"), hf + "mlp.down_proj.weight", gguf + "ffn_down.weight", 1),
        )

    def to_hf(self) -> dict[str, Any]:
        """The fields of config.json."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.width,
            "intermediate_size": self.mlp,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab,
            "rope_theta": self.rope_base,
            "rms_norm_eps": self.norm_eps,
            "tie_word_embeddings": self.tied,
            "max_position_embeddings": self.context,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
        }


class Block(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: LlamaConfig):
        self.attention_norm = RMSNorm(config.width, config.norm_eps)
        self.attention = Attention(config.width, config.heads, config.kv_heads, config.head_dim)
        self.mlp_norm = RMSNorm(config.width, config.norm_eps)
        self.mlp = SwiGLU(config.width, config.mlp)

    def __call__(
        self,
        x: Float[Array, "n s d"],
        turn: Angles,
        mask: Bool[Array, "n s c"],
        remember: Callable[[KeyValue], KeyValue],
    ) -> tuple[Float[Array, "n s d"], KeyValue]:
        """The block's output and what it attended to; `remember` joins new keys and values to older ones."""
        with jax.named_scope("attention"):
            query, new = self.attention.read(self.attention_norm(x), turn)
            memory = remember(new)
            x = x + self.attention.write(query, memory, mask)
        with jax.named_scope("mlp"):
            return x + self.mlp(self.mlp_norm(x)), memory


class Llama(nnx.Module):
    """Layers stacked on a leading axis; see `jaxalign.models.model.Model` for what its methods promise."""

    def __init__(self, config: LlamaConfig):
        self.config = config
        self.embed = parameter((config.vocab, config.width), ("vocab", "embed"))
        self.blocks = nnx.vmap(lambda: Block(config), axis_size=config.layers)()
        self.norm = RMSNorm(config.width, config.norm_eps)
        if not config.tied:
            self.head = parameter((config.vocab, config.width), ("vocab", "embed"))

    def hidden(
        self, tokens: Int[Array, "n s"], position: Int[Array, "n s"], mask: Bool[Array, "n s s"]
    ) -> Float[Array, "n s d"]:
        """Final hidden states, normalised."""
        return self.norm(self.scan(tokens, position, mask, keep=False)[0])

    def prefill(
        self, tokens: Int[Array, "b p"], position: Int[Array, "b p"], mask: Bool[Array, "b p p"], capacity: int
    ) -> tuple[Float[Array, "b d"], Cache]:
        """Hidden state of the last column, and a cache of `capacity` columns of which the first p are filled."""
        x, stacked = self.scan(tokens, position, mask, keep=True)
        cache = tuple(room(layer, capacity - tokens.shape[1]) for layer in zip(*stacked, strict=True))
        return self.norm(x[:, -1:])[:, 0], cache

    def scan(
        self, tokens: Int[Array, "n s"], position: Int[Array, "n s"], mask: Bool[Array, "n s s"], keep: bool
    ) -> tuple[Float[Array, "n s d"], Any]:
        """Hidden states before the final norm and, when asked, the keys and values of every layer."""
        definition, stacked = nnx.split(self.blocks)
        turn = angles(position, self.config.head_dim, self.config.rope_base)

        def apply(x: Array, weights: Any) -> tuple[Array, KeyValue | None]:
            x, memory = nnx.merge(definition, weights)(x, turn, mask, lambda new: new)
            return x, memory if keep else None

        if self.config.remat != "none":
            apply = jax.checkpoint(apply, policy=REMAT[self.config.remat], prevent_cse=False)
        x = lookup(self.embed[...], tokens, self.config)
        with jax.named_scope("blocks"):
            return jax.lax.scan(apply, x, stacked)

    def unrolled(self) -> "Decoder":
        return Decoder(self)


class Decoder(nnx.Module):
    """The same model one token at a time: layers apart, matrices already in the compute dtype."""

    def __init__(self, model: Llama):
        definition, stacked = nnx.split(model.blocks)
        dtype = jnp.dtype(model.config.compute_dtype)
        self.config = model.config
        self.embed = nnx.Param(model.embed[...].astype(dtype))
        self.blocks = nnx.List(
            nnx.merge(definition, jax.tree.map(functools.partial(layer, index=i, dtype=dtype), stacked))
            for i in range(self.config.layers)
        )
        self.norm = model.norm
        if not self.config.tied:
            self.head = nnx.Param(model.head[...].astype(dtype))

    def decode(
        self,
        cache: Cache,
        tokens: Int[Array, " b"],
        position: Int[Array, " b"],
        visible: Bool[Array, "b c"],
        index: Int[Array, ""],
    ) -> tuple[Float[Array, "b d"], Cache]:
        """Hidden states of the new tokens, whose keys and values are written at column `index`."""
        turn = angles(position[:, None], self.config.head_dim, self.config.rope_base)
        x = lookup(self.embed[...], tokens[:, None], self.config)
        written = []
        for block, old in zip(self.blocks, cache, strict=True):
            x, memory = block(x, turn, visible[:, None], lambda new, old=old: insert(old, new, index))
            written.append(memory)
        return self.norm(x)[:, 0], tuple(written)


def insert(old: KeyValue, new: Column, index: Int[Array, ""]) -> KeyValue:
    """The cache with one column overwritten; in place where the cache is a loop's carry."""
    write = jax.lax.dynamic_update_slice_in_dim
    return write(old[0], new[0], index, axis=3), write(old[1], new[1], index, axis=2)


def room(filled: KeyValue, columns: int) -> tuple[Array, Array]:
    """The cache with empty columns behind."""
    key, value = filled
    return jnp.pad(key, ((0, 0), (0, 0), (0, 0), (0, columns))), jnp.pad(value, ((0, 0), (0, 0), (0, columns), (0, 0)))


def lookup(embed: Float[Array, "v d"], tokens: Int[Array, "n s"], config: LlamaConfig) -> Float[Array, "n s d"]:
    with jax.named_scope("embed"):
        return embed[tokens].astype(config.compute_dtype)


def layer(stacked: Array, index: int, dtype: jnp.dtype) -> Array:
    """One layer's weights: matrices in the compute dtype; the scales of norms stay fp32, as they are in training."""
    return stacked[index].astype(dtype) if stacked.ndim > 2 else stacked[index]


# --------------------------------------------------------------------------------------------------------------
# Configs of files

HF_FIXED: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "rope_scaling": (None, {"rope_type": "default"}, {"type": "default"}),
    "rope_interleaved": (False,),
    "partial_rotary_factor": (1, 1.0),
    "quantization_config": (None,),
    "sliding_window": (None,),
}
"""Fields that change the maths, with the values for which this family computes it."""

HF_READ = """
    model_type hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim
    vocab_size rope_theta rope_parameters rms_norm_eps tie_word_embeddings max_position_embeddings
"""
HF_HARMLESS = """
    architectures attention_dropout bos_token_id dtype eos_token_id initializer_range is_llama_config pad_token_id
    pretraining_tp torch_dtype transformers.js_config transformers_version use_cache _name_or_path
"""
"""Fields that do not touch the forward pass."""


GGUF_READ = """
    block_count context_length embedding_length feed_forward_length vocab_size rope.freq_base rope.dimension_count
    attention.head_count attention.head_count_kv attention.key_length attention.value_length
    attention.layer_norm_rms_epsilon
"""
GGUF_FIXED: Mapping[str, tuple[Any, ...]] = {
    "rope.scaling.type": ("none",),
    "rope.scaling.factor": (1.0,),
    "expert_count": (0,),
    "expert_used_count": (0,),
}


def from_hf(fields: Mapping[str, Any], file: pathlib.Path, compute_dtype: Dtype, remat: Remat) -> LlamaConfig:
    """The config of a config.json. Raises ModelError naming a field that is missing, mistyped or not supported."""
    if fields.get("model_type") != "llama":
        raise ModelError(f"{file}: model_type {fields.get('model_type')!r} is not supported; known is 'llama'")
    for name, value in fields.items():
        if name in HF_FIXED and value not in HF_FIXED[name]:
            raise ModelError(f"{file}: {name} = {value!r} is not supported; known is {HF_FIXED[name][0]!r}")
        if value is not None and name not in (*HF_FIXED, *HF_READ.split(), *HF_HARMLESS.split()):
            raise ModelError(f"{file}: unknown field {name!r} = {value!r}; it may change what the model computes")

    def read(name: str, kind: type, default: Any = None) -> Any:
        value: Any = fields.get(name)
        value = default if value is None else float(value) if kind is float and type(value) is int else value
        fits = type(value) is kind
        if not fits or (kind is not bool and value <= 0):
            raise ModelError(f"{file}: {name} should be a positive {kind.__name__}, not {value!r}")
        return value

    rope = fields.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default":
        raise ModelError(
            f"{file}: rope_parameters.rope_type {rope['rope_type']!r} is not supported; known is 'default'"
        )
    heads = read("num_attention_heads", int)
    width = read("hidden_size", int)
    return LlamaConfig(
        layers=read("num_hidden_layers", int),
        width=width,
        mlp=read("intermediate_size", int),
        heads=heads,
        kv_heads=read("num_key_value_heads", int, heads),
        head_dim=read("head_dim", int, width // heads),
        vocab=read("vocab_size", int),
        rope_base=float(rope.get("rope_theta") or read("rope_theta", float, 1e4)),
        norm_eps=read("rms_norm_eps", float, 1e-6),
        tied=read("tie_word_embeddings", bool, False),
        context=read("max_position_embeddings", int, 2048),
        compute_dtype=compute_dtype,
        remat=remat,
    )


def from_gguf(file: GgufFile, compute_dtype: Dtype, remat: Remat) -> LlamaConfig:
    """The config of a GGUF file. Raises ModelError naming a field that is missing or not supported."""
    architecture = file.field("general.architecture", str)
    if architecture != "llama":
        raise ModelError(f"{file.path}: general.architecture {architecture!r} is not supported; known is 'llama'")
    for name, value in file.fields.items():
        if (
            name.startswith("llama.")
            and name[6:] not in GGUF_READ.split()
            and value not in GGUF_FIXED.get(name[6:], ())
        ):
            raise ModelError(f"{file.path}: {name} = {value!r:.60} is not supported")
    if "token_embd.weight" not in file.tensors:
        raise ModelError(f"{file.path}: tensor 'token_embd.weight' is missing")
    read = functools.partial(file.field, kind=int)
    heads, width = read("llama.attention.head_count"), read("llama.embedding_length")
    head_dim = read("llama.attention.key_length", default=width // max(heads, 1))
    for name in ("llama.attention.value_length", "llama.rope.dimension_count"):
        if read(name, default=head_dim) != head_dim:
            raise ModelError(f"{file.path}: {name} = {file.fields[name]} differs from the size of a head, {head_dim}")
    return LlamaConfig(
        layers=read("llama.block_count"),
        width=width,
        mlp=read("llama.feed_forward_length"),
        heads=heads,
        kv_heads=read("llama.attention.head_count_kv", default=heads),
        head_dim=head_dim,
        vocab=file.shapes()["token_embd.weight"][0],
        rope_base=file.field("llama.rope.freq_base", float, 1e4),
        # stored as fp32: its shortest decimal is the number that was meant
        norm_eps=float(str(np.float32(file.field("llama.attention.layer_norm_rms_epsilon", float)))),
        tied="output.weight" not in file.tensors,
        context=read("llama.context_length"),
        compute_dtype=compute_dtype,
        remat=remat,
    )
