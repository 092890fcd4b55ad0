"""The decoder that every family is made of: a stack of blocks of attention and feed-forward layers between norms.

A family chooses among the parts that `DecoderConfig` names and says what its files call them. What differs from layer
to layer (window, rotation) is a small array that travels with the stacked weights. So rows and prefill scan over the
layers, and compile time and program size do not grow with depth; decoding unrolls them, because a cache in a scan is
copied at every token.

Local layers among global ones: Gemma 2 (2408.00118), Gemma 3 (2503.19786). Other sources stand beside the parts:
`block` (norms), `stack` (windows, layers without positions), `attention`, `layers`, `experts`.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxalign.errors import ModelError
from jaxalign.formats.weights import Tensor
from jaxalign.mesh.layout import Layout
from jaxalign.models import cache
from jaxalign.models.attention import Attention, KeyValue
from jaxalign.models.block import Block
from jaxalign.models.experts import Experts, Mixture
from jaxalign.models.gguf_fields import GgufFields
from jaxalign.models.hf_fields import HfFields
from jaxalign.models.hf_outputs import named, scored
from jaxalign.models.layers import Activation, GatedMLP, RMSNorm, parameter
from jaxalign.models.remat import REMAT, Remat
from jaxalign.models.rope import Rope, angles
from jaxalign.models.stack import Dtype, Layer, Stack
from jaxalign.models.unrolled import Unrolled
from jaxalign.ops.attention import Sight


@runtime_checkable
class Family(Protocol):
    """Reads and writes the configs of one kind of model. Frozen and hashable: it is part of a config."""

    @property
    def model_type(self) -> str:
        """What config.json calls it."""

    def from_hf(self, fields: HfFields) -> "DecoderConfig":
        """The config of a config.json. Raises ModelError naming a field that is missing, mistyped or not supported."""

    def to_hf(self, config: "DecoderConfig") -> dict[str, Any]:
        """The fields of config.json."""

    def tensors(self, config: "DecoderConfig") -> tuple[Tensor, ...]:
        """Where each parameter lies in Hugging Face and GGUF files."""


@runtime_checkable
class InGguf(Protocol):
    """A family whose GGUF files are read too."""

    @property
    def architecture(self) -> str:
        """What GGUF calls it (general.architecture)."""

    def from_gguf(self, fields: GgufFields) -> "DecoderConfig":
        """The config of a GGUF file's metadata. Raises ModelError as `Family.from_hf`."""


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Shape and numerics of a decoder; its `family` knows files of it. `context` is the longest row in tokens."""

    family: Family
    layers: int
    width: int
    mlp: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    pattern: tuple[Layer, ...] = ()
    """one a layer, or nothing where all are plain"""
    ropes: tuple[Rope, ...] = (Rope(),)
    query_scalar: float | None = None
    """attention scores are divided by its root; None: by that of head_dim"""
    score_cap: float | None = None
    """soft-cap of attention scores"""
    biased: bool = False
    """whether queries, keys and values have biases"""
    head_norms: bool = False
    """whether queries and keys are normalised, head by head"""
    post_norms: bool = False
    """whether the results of attention and feed-forward layers are normalised before they are added"""
    norm_eps: float = 1e-5
    norm_offset: float = 0.0
    """added to the scales of norms: 1 where families keep them as distances from 1"""
    activation: Activation = "silu"
    mixture: Mixture | None = None
    """experts in place of feed-forward layers of width `mlp`"""
    embed_scale: float = 1.0
    """embeddings are multiplied by it, rounded to the compute dtype"""
    softcap: float | None = None
    """soft-cap of the scores of the vocabulary"""
    tied: bool = True
    outputs: tuple[str, ...] = ()
    """names of what the last token is scored by, in place of the vocabulary; none: it is a language model"""
    context: int = 2048
    compute_dtype: Dtype = "float32"
    remat: Remat = "none"
    kv_cache: cache.Kind = "exact"
    """how decoding keeps keys and values"""

    @property
    def output(self) -> str:
        """Name of the parameter whose rows score the vocabulary, or the last token."""
        return "score" if self.outputs else "embed" if self.tied else "head"

    @property
    def kinds(self) -> tuple[Layer, ...]:
        """One for each layer."""
        return self.pattern or (Layer(),) * self.layers

    @property
    def stack(self) -> Stack:
        """What its layers see and turn by."""
        return Stack(self.kinds, self.ropes, self.head_dim, self.embed_scale, self.compute_dtype)

    @property
    def rope_base(self) -> float:
        """Base of the first rotation."""
        return self.ropes[0].base

    def problems(self) -> Iterable[str]:
        """What makes this shape impossible."""
        sizes = ("layers", "width", "mlp", "heads", "kv_heads", "head_dim", "vocab", "context")
        yield from (f"{name} must be at least 1" for name in sizes if vars(self)[name] < 1)
        if self.kv_heads > 0 and self.heads % self.kv_heads:
            yield f"{self.heads} query heads cannot be shared out evenly to {self.kv_heads} KV heads"
        if self.head_dim % 2:
            yield f"head_dim {self.head_dim} is odd; rotations need pairs"
        if len(self.kinds) != self.layers:
            yield f"a pattern of {len(self.pattern)} layers does not fit {self.layers} layers"
        if any(kind.window is not None and kind.window < 1 for kind in self.pattern):
            yield "windows must be at least 1 token"
        if any(kind.rope is not None and not 0 <= kind.rope < len(self.ropes) for kind in self.kinds):
            yield f"the pattern names a rotation beyond the {len(self.ropes)} there are"
        if self.mixture and not 0 < self.mixture.chosen <= self.mixture.experts:
            yield f"{self.mixture.chosen} of {self.mixture.experts} experts cannot be chosen"
        yield from (problem for rope in self.ropes for problem in rope.problems())

    def module(self, layout: Layout | None = None) -> "Decoder":
        """The decoder's definition, on a mesh where there is a `layout`. For `Model`, which gives it parameters."""
        return Decoder(self, layout)

    def block(self, layout: Layout | None) -> Block:
        """The definition of one layer, the same for all: what `kinds` say of each comes with its input."""
        attention = Attention(
            self.width,
            self.heads,
            self.kv_heads,
            self.head_dim,
            layout,
            scalar=float(self.head_dim) if self.query_scalar is None else self.query_scalar,
            cap=self.score_cap,
            biased=self.biased,
            norm=self.norm if self.head_norms else None,
        )
        if self.mixture:
            mlp: GatedMLP | Experts = Experts(self.width, self.mixture, self.activation, layout)
        else:
            mlp = GatedMLP(self.width, self.mlp, self.activation, layout)
        return Block(
            layout,
            attention=attention,
            attention_norm=self.norm(self.width),
            attention_post_norm=self.norm(self.width) if self.post_norms else None,
            mlp=mlp,
            mlp_norm=self.norm(self.width),
            mlp_post_norm=self.norm(self.width) if self.post_norms else None,
        )

    def keeping(self, remat: str) -> "DecoderConfig":
        """The same decoder under another policy of `REMAT`. Raises ModelError for others."""
        for policy in REMAT:
            if policy == remat:
                return dataclasses.replace(self, remat=policy)
        raise ModelError(f"remat {remat!r} is none of {', '.join(REMAT)}")

    def caching(self, kind: cache.Kind) -> "DecoderConfig":
        """The same decoder, which keeps what it decodes so."""
        return dataclasses.replace(self, kv_cache=kind)

    def norm(self, width: int) -> RMSNorm:
        """A norm over `width` numbers, as all of this decoder are."""
        return RMSNorm(width, self.norm_eps, self.norm_offset)

    def tensors(self) -> tuple[Tensor, ...]:
        """Where each parameter lies in Hugging Face and GGUF files."""
        return scored(self.family.tensors(self)) if self.outputs else self.family.tensors(self)

    def to_hf(self) -> dict[str, Any]:
        """The fields of config.json."""
        fields = self.family.to_hf(self)
        return named(fields, self.outputs) if self.outputs else fields


class Decoder(nnx.Module):
    """Layers stacked on a leading axis; see `jaxalign.models.model.Model` for what its methods promise."""

    def __init__(self, config: DecoderConfig, layout: Layout | None):
        self.config, self.layout = config, layout
        self.embed = parameter((config.vocab, config.width), ("vocab", "embed"))
        # one block, traced once for all layers: building a deep model takes no longer
        self.blocks = nnx.vmap(lambda: config.block(layout), axis_size=config.layers)()
        self.norm = config.norm(config.width)
        if config.outputs:
            self.score = parameter((len(config.outputs), config.width), (None, "embed"))
        elif not config.tied:
            self.head = parameter((config.vocab, config.width), ("vocab", "embed"))

    def hidden(self, tokens: Int[Array, "n s"], position: Int[Array, "n s"], sight: Sight) -> Float[Array, "n s d"]:
        """Final hidden states, normalised."""
        return self.norm(self.scan(tokens, position, sight, keep=False)[0])

    def prefill(
        self, tokens: Int[Array, "b p"], position: Int[Array, "b p"], sight: Sight, rows: int, room: int
    ) -> tuple[Float[Array, "b d"], cache.Cache]:
        """Hidden state of the last column, and a cache in which `rows` rows may say `room` tokens each."""
        x, stacked = self.scan(tokens, position, sight, keep=True)
        stack = self.config.stack
        windows = [kind.window for kind in stack.kinds]
        prompts = tuple(
            cache.kept(*cache.near(*layer), self.config.kv_cache) for layer in zip(*stacked, windows, strict=True)
        )
        behind, rooms = position[:, -1:] + 1 + jnp.arange(room)[None], [min(room, each or room) for each in windows]
        turns = tuple(angles(behind, rope.frequencies(stack.head_dim)) for rope in stack.ropes)
        kept = cache.Cache(prompts, cache.empty(prompts, rows, rooms, self.layout), turns)
        return self.norm(x[:, -1:])[:, 0], kept

    def scan(
        self, tokens: Int[Array, "n s"], position: Int[Array, "n s"], sight: Sight, keep: bool
    ) -> tuple[Float[Array, "n s d"], Any]:
        """Hidden states before the final norm and, when asked, the keys and values of every layer."""
        definition, stacked = nnx.split(self.blocks)
        # cos and sin of all rotations, made once; a layer takes those of its own by index
        stack = self.config.stack
        turns = stack.rotations(position)
        # the layers of a scan are one program: where one has a window the others get FAR, and else the mask needs none
        windowed = stack.windowed

        def apply(x: Array, layer: Any) -> tuple[Array, KeyValue | None]:
            weights, window, rope = layer
            turn = jax.tree.map(lambda table: table[rope], turns)
            block = nnx.merge(definition, weights)
            x, memory = block(x, turn, sight, window if windowed else None, lambda new: new)
            return x, memory if keep else None

        policy = REMAT[self.config.remat]
        if policy is not None:
            # barriers against merging both computations cost time, and a scan needs none: it is two loops
            apply = jax.checkpoint(apply, policy=policy, prevent_cse=False)
        x = stack.embedded(self.embed, tokens, self.layout)
        with jax.named_scope("blocks"):
            return jax.lax.scan(apply, x, (stacked, *stack.by_layer()))

    def unrolled(self) -> Unrolled:
        """What decodes with these parameters, one token at a time."""
        config, resident = self.config, None if self.layout is None else self.layout.resident
        layer = nnx.eval_shape(lambda: config.block(resident))
        head = self.head if config.output == "head" else None
        return Unrolled(config.stack, resident, self.embed, layer, self.blocks, self.norm, head)
