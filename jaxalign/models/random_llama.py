"""A small random Llama that speaks bytes: the model of tests and of the tiny experiments."""

import dataclasses
import zlib
from collections.abc import Iterable

import numpy as np
import tokenizers
from flax import nnx

from jaxalign.errors import ModelError
from jaxalign.formats import weights
from jaxalign.formats.weights import Folder, Tensor
from jaxalign.models.decoder import DecoderConfig
from jaxalign.models.families import llama
from jaxalign.models.model import Model, split
from jaxalign.models.stack import Dtype
from jaxalign.text.chat import Chat
from jaxalign.text.gguf_tokenizer import SPLITS, byte_level

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|pad|>", "<|im_start|>", "<|im_end|>")


@dataclasses.dataclass(frozen=True)
class RandomLlama:
    """Source of a Llama with random weights, a token for each byte, and ChatML."""

    layers: int = 2
    width: int = 32
    """size of the hidden state"""
    mlp: int = 64
    """size of the feed-forward layer"""
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 8
    tied: bool = True
    """whether one matrix embeds tokens and scores them"""
    context: int = 512
    """longest row, tokens"""
    compute_dtype: Dtype = "float32"
    """what matrices are multiplied in; parameters stay float32"""
    seed: int = 0
    """of the weights"""

    def problems(self) -> Iterable[str]:
        yield from self.config(1).problems()
        if self.seed < 0:
            yield f"seed must not be negative, got {self.seed}"

    def config(self, vocab: int) -> DecoderConfig:
        """The shape of the model over `vocab` tokens."""
        return DecoderConfig(
            llama.FAMILY,
            layers=self.layers,
            width=self.width,
            mlp=self.mlp,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            vocab=vocab,
            tied=self.tied,
            context=self.context,
            compute_dtype=self.compute_dtype,
        )

    def open(self) -> Model:
        """Raises ModelError when the sizes do not fit each other."""
        for problem in self.problems():
            raise ModelError(f"RandomLlama: {problem}")
        chat = byte_chat()
        config = self.config(chat.vocab)
        return split(config, chat, f"random llama, seed {self.seed}", drawn(config, self.seed))


def drawn(config: DecoderConfig, seed: int) -> weights.Stored:
    """Random parameters, read like those of a file."""
    shapes = nnx.to_pure_dict(nnx.state(nnx.eval_shape(config.module)))
    sizes = {name: size for tensor in config.tensors() for name, size in weights.entries(tensor, tensor.hf, shapes)}
    return weights.Stored(RandomWeights(sizes, seed), config.tensors())


@dataclasses.dataclass(frozen=True)
class RandomWeights:
    """Reader of weights that are drawn, N(0, 1/fan_in), rather than stored; each from the seed and its own name.

    Norms scale by 1. Embeddings are N(0, 0.02²): where they are tied to the output, larger ones would make every token
    expect itself.
    """

    sizes: dict[str, tuple[int, ...]]
    seed: int

    def name(self, tensor: Tensor) -> str:
        return tensor.hf

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return self.sizes

    def where(self, name: str) -> str:
        return f"random weights of seed {self.seed}"

    def read(self, name: str, tensor: Tensor) -> np.ndarray:
        shape = self.sizes[name]
        if tensor.path[-1] == "scale":
            return np.full(shape, 1 - tensor.offset, np.float32)
        generator = np.random.default_rng([self.seed, zlib.crc32(name.encode())])
        scale = 0.02 if tensor.path == ("embed",) else shape[-1] ** -0.5
        return generator.standard_normal(shape, np.float32) * np.float32(scale)

    def files(self) -> dict[str, Folder]:
        return {}


def byte_chat() -> Chat:
    """256 bytes and three special tokens."""
    vocab = {token: i for i, token in enumerate((*SPECIAL, *byte_symbols()))}
    specials = {"bos_token": SPECIAL[1], "eos_token": SPECIAL[2], "pad_token": SPECIAL[0]}
    tokenizer = byte_level(vocab, [], SPLITS["smollm"])
    tokenizer.add_special_tokens([tokenizers.AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return Chat(tokenizer, TEMPLATE, (2,), 0, specials, "byte-level chat")


def byte_symbols() -> list[str]:
    """The printable character that byte-level BPE writes for each byte, in the order of bytes.

    Printable Latin-1 characters stand for themselves, the other bytes for the characters from U+0100 on.
    """
    plain = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    other = iter(range(0x100, 0x200))
    return [chr(byte if byte in plain else next(other)) for byte in range(256)]
