"""The decoder that every family is made of: a stack of blocks of attention and feed-forward layers between norms.

A family chooses among the parts that `DecoderConfig` names and says what its files call them. What differs from layer
to layer (window, rotation) is a small array that travels with the stacked weights. So rows and prefill scan over the
layers, and compile time and program size do not grow with depth; decoding unrolls them, because a cache in a scan is
copied at every token.

Transformer decoders with norms before each part: Touvron et al. 2023 (2302.13971). Norms before and after, and local
layers among global ones: Gemma 2 (2408.00118), Gemma 3 (2503.19786). Sliding windows: Mistral (2310.06825). Layers
without positions: Yang et al. 2025 (2501.18795).
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxalign.errors import ModelError
from jaxalign.formats.weights import Tensor
from jaxalign.mesh.layout import Layout
from jaxalign.models.attention import Attention, KeyValue
from jaxalign.models.experts import Experts, Mixture
from jaxalign.models.gguf_fields import GgufFields
from jaxalign.models.hf_fields import HfFields
from jaxalign.models.hf_outputs import named, scored
from jaxalign.models.layers import Activation, GatedMLP, RMSNorm, is_variable, lookup, parameter
from jaxalign.models.remat import REMAT, Remat
from jaxalign.models.rope import Angles, Rope, angles
from jaxalign.ops.attention import Shown, Sight

Dtype = Literal["float32", "bfloat16"]

Cache = tuple[KeyValue, ...]
Column = tuple[Float[Array, "n k h 1"], Float[Array, "n k 1 h"]]

FAR = 2**30
"""A window no row is as long as."""


@dataclasses.dataclass(frozen=True)
class Layer:
    """What is special about one layer.

    A token sees itself and the `window` - 1 positions before it; None: all before it. `rope` is the index of the
    rotation among the config's `ropes`; None rotates nothing.
    """

    window: int | None = None
    rope: int | None = 0


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

    @property
    def output(self) -> str:
        """Name of the parameter whose rows score the vocabulary, or the last token."""
        return "score" if self.outputs else "embed" if self.tied else "head"

    @property
    def kinds(self) -> tuple[Layer, ...]:
        """One for each layer."""
        return self.pattern or (Layer(),) * self.layers

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
        return Decoder(self, layout)

    def keeping(self, remat: str) -> "DecoderConfig":
        """The same decoder under another policy of `REMAT`. Raises ModelError for others."""
        for policy in REMAT:
            if policy == remat:
                return dataclasses.replace(self, remat=policy)
        raise ModelError(f"remat {remat!r} is none of {', '.join(REMAT)}")

    def norm(self, width: int) -> RMSNorm:
        return RMSNorm(width, self.norm_eps, self.norm_offset)

    def tensors(self) -> tuple[Tensor, ...]:
        """Where each parameter lies in Hugging Face and GGUF files."""
        return scored(self.family.tensors(self)) if self.outputs else self.family.tensors(self)

    def to_hf(self) -> dict[str, Any]:
        """The fields of config.json."""
        fields = self.family.to_hf(self)
        return named(fields, self.outputs) if self.outputs else fields


class Block(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); families with post-norms normalise both before adding them."""

    def __init__(self, config: DecoderConfig, layout: Layout | None):
        self.layout = layout
        self.attention_norm = config.norm(config.width)
        self.attention = Attention(
            config.width,
            config.heads,
            config.kv_heads,
            config.head_dim,
            layout,
            scalar=float(config.head_dim) if config.query_scalar is None else config.query_scalar,
            cap=config.score_cap,
            biased=config.biased,
            norm=config.norm if config.head_norms else None,
        )
        self.attention_post_norm = config.norm(config.width) if config.post_norms else None
        self.mlp_norm = config.norm(config.width)
        self.mlp = (
            Experts(config.width, config.mixture, config.activation, layout)
            if config.mixture
            else GatedMLP(config.width, config.mlp, config.activation, layout)
        )
        self.mlp_post_norm = config.norm(config.width) if config.post_norms else None

    def __call__(
        self,
        x: Float[Array, "n s d"],
        turn: Angles | None,
        sight: Sight,
        window: Int[Array, ""] | None,
        remember: Callable[[KeyValue], KeyValue],
    ) -> tuple[Float[Array, "n s d"], KeyValue]:
        """The block's output and what it attended to; `remember` joins new keys and values to older ones."""
        with jax.named_scope("attention"):
            query, new = self.attention.read(self.attention_norm(x), turn)
            memory = remember(new)
            found = self.attention.write(query, memory, sight, window)
            x = self.add(x, found if self.attention_post_norm is None else self.attention_post_norm(found))
        with jax.named_scope("mlp"):
            made = self.mlp(self.mlp_norm(x))
            return self.add(x, made if self.mlp_post_norm is None else self.mlp_post_norm(made)), memory

    def add(self, x: Float[Array, "n s d"], found: Float[Array, "n s d"]) -> Float[Array, "n s d"]:
        """The residual stream, split by rows and sequence."""
        # where heads or f are split each device has a part of the sum; not split along that axis, it is summed here
        return x + found if self.layout is None else self.layout.place(x + found, "rows", "sequence", None)


class Decoder(nnx.Module):
    """Layers stacked on a leading axis; see `jaxalign.models.model.Model` for what its methods promise."""

    def __init__(self, config: DecoderConfig, layout: Layout | None):
        self.config, self.layout = config, layout
        self.embed = parameter((config.vocab, config.width), ("vocab", "embed"))
        # one block, traced once for all layers: building a deep model takes no longer
        self.blocks = nnx.vmap(lambda: Block(config, layout), axis_size=config.layers)()
        self.norm = config.norm(config.width)
        if config.outputs:
            self.score = parameter((len(config.outputs), config.width), (None, "embed"))
        elif not config.tied:
            self.head = parameter((config.vocab, config.width), ("vocab", "embed"))

    def hidden(self, tokens: Int[Array, "n s"], position: Int[Array, "n s"], sight: Sight) -> Float[Array, "n s d"]:
        """Final hidden states, normalised."""
        return self.norm(self.scan(tokens, position, sight, keep=False)[0])

    def prefill(
        self, tokens: Int[Array, "b p"], position: Int[Array, "b p"], sight: Sight, capacity: int
    ) -> tuple[Float[Array, "b d"], Cache]:
        """Hidden state of the last column, and a cache of `capacity` columns of which the first p are filled."""
        x, stacked = self.scan(tokens, position, sight, keep=True)
        # prompts are padded on the left, so that all of them end, and their answers begin, in the same column
        cache = tuple(room(layer, capacity - tokens.shape[1]) for layer in zip(*stacked, strict=True))
        return self.norm(x[:, -1:])[:, 0], cache

    def scan(
        self, tokens: Int[Array, "n s"], position: Int[Array, "n s"], sight: Sight, keep: bool
    ) -> tuple[Float[Array, "n s d"], Any]:
        """Hidden states before the final norm and, when asked, the keys and values of every layer."""
        definition, stacked = nnx.split(self.blocks)
        # cos and sin of all rotations, made once; a layer takes those of its own by index
        turns = rotations(self.config, position)
        # the layers of a scan are one program: where one has a window the others get FAR, and else the mask needs none
        windowed = any(kind.window for kind in self.config.kinds)

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
        x = embedded(self.embed, tokens, self.config, self.layout)
        with jax.named_scope("blocks"):
            return jax.lax.scan(apply, x, (stacked, *by_layer(self.config)))

    def unrolled(self) -> "Unrolled":
        return Unrolled(self)


class Unrolled(nnx.Module):
    """The same model one token at a time: layers apart, matrices already in the compute dtype, and on a mesh gathered
    over the axes that split tokens, once for all tokens."""

    def __init__(self, model: Decoder):
        config = self.config = model.config
        self.layout = None if model.layout is None else model.layout.resident
        # one block's definition serves all: what differs, window and rotation, is looked up at each step
        layer = nnx.eval_shape(lambda: Block(config, self.layout))
        stacked = nnx.split(model.blocks)[1]
        self.embed = self.kept(model.embed)
        self.blocks = nnx.List(
            nnx.merge(
                nnx.graphdef(layer), jax.tree.map(functools.partial(self.one, index), stacked, is_leaf=is_variable)
            )
            for index in range(config.layers)
        )
        self.norm = model.norm
        if config.output == "head":
            self.head = self.kept(model.head)

    def kept(self, matrix: nnx.Param) -> nnx.Param:
        """A matrix as decoding wants it."""
        names = matrix.get_metadata("logical")
        found = matrix[...].astype(self.config.compute_dtype)
        return nnx.Param(found if self.layout is None else self.layout.place(found, *names), logical=names)

    def one(self, index: int, stacked: Any) -> Any:
        """One layer's weights: matrices in the compute dtype; scales of norms stay fp32, as they are in training."""
        names, weight = stacked.get_metadata("logical"), stacked[...][index]
        if len(names) > 1:
            weight = weight.astype(self.config.compute_dtype)
        return stacked.replace(weight if self.layout is None else self.layout.place(weight, *names))

    def decode(
        self,
        cache: Cache,
        tokens: Int[Array, " b"],
        position: Int[Array, " b"],
        visible: Bool[Array, "b c"],
        index: Int[Array, ""],
    ) -> tuple[Float[Array, "b d"], Cache]:
        """Hidden states of the new tokens, whose keys and values are written at column `index`.

        Columns hold neighbouring positions, so a window of positions is one of columns.
        """
        turns = [angles(position[:, None], rope.frequencies(self.config.head_dim)) for rope in self.config.ropes]
        x = embedded(self.embed, tokens[:, None], self.config, self.layout)
        distance = index - jnp.arange(visible.shape[1], dtype=index.dtype)
        written = []
        for block, kind, old in zip(self.blocks, self.config.kinds, cache, strict=True):
            shown = visible if kind.window is None else visible & (distance < kind.window)[None]
            turn = None if kind.rope is None else turns[kind.rope]
            sight = Shown(shown[:, None], position[:, None])
            # the window is in the mask already
            x, memory = block(x, turn, sight, None, lambda new, old=old: insert(old, new, index))
            written.append(memory)
        return self.norm(x)[:, 0], tuple(written)


def rotations(config: DecoderConfig, position: Int[Array, "n s"]) -> tuple[Array, Array]:
    """cos and sin [tables n s 1 half] of every rotation, and at the end of the one that turns nothing, if used."""
    frequencies = [rope.frequencies(config.head_dim) for rope in config.ropes]
    if any(kind.rope is None for kind in config.kinds):
        frequencies.append(jnp.zeros_like(frequencies[0]))
    cos, sin = zip(*(angles(position, frequency) for frequency in frequencies), strict=True)
    return jnp.stack(cos), jnp.stack(sin)


def by_layer(config: DecoderConfig) -> tuple[Int[np.ndarray, " l"], Int[np.ndarray, " l"]]:
    """Window and index of the rotation of each layer, without windows and rotations written as numbers."""
    # numbers, for a scan has no None: a window beyond any row, and the table of `rotations` that turns nothing
    windows = [kind.window or FAR for kind in config.kinds]
    ropes = [len(config.ropes) if kind.rope is None else kind.rope for kind in config.kinds]
    return np.array(windows, np.int32), np.array(ropes, np.int32)


def insert(old: KeyValue, new: Column, index: Int[Array, ""]) -> KeyValue:
    """The cache with one column overwritten; in place where the cache is a loop's carry."""
    write = jax.lax.dynamic_update_slice_in_dim
    return write(old[0], new[0], index, axis=3), write(old[1], new[1], index, axis=2)


def room(filled: KeyValue, columns: int) -> tuple[Array, Array]:
    """The cache with empty columns behind."""
    key, value = filled
    return jnp.pad(key, ((0, 0), (0, 0), (0, 0), (0, columns))), jnp.pad(value, ((0, 0), (0, 0), (0, columns), (0, 0)))


def embedded(
    table: nnx.Param, tokens: Int[Array, "n s"], config: DecoderConfig, layout: Layout | None
) -> Float[Array, "n s d"]:
    """Embeddings in the compute dtype, scaled."""
    with jax.named_scope("embed"):
        found = lookup(table, tokens, config.compute_dtype, layout)
        # Gemma's sqrt(width) is rounded to the compute dtype first: in bf16 it is another number
        return found if config.embed_scale == 1 else found * jnp.asarray(config.embed_scale, found.dtype)
