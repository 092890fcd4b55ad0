"""Score models: any decoder with a head on the last token of a conversation in place of the vocabulary's.

`Headed` makes one of a language model; a Hugging Face directory of a sequence classifier is one already (`Pretrained`
reads it). Their parameters hold `score` [o d]; see `heads` for what o outputs mean. The last token is the one that ends
the answer's turn: what templates write behind it is left out, so that answers are scored by the tokens that policies
are trained on.
"""

import dataclasses
import zlib
from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np

from jaxalign.errors import ModelError
from jaxalign.formats.stacking import Index
from jaxalign.formats.weights import Folder, Reader, SlicedReader, Stored, Tensor
from jaxalign.models.decoder import DecoderConfig
from jaxalign.models.hf_outputs import SCORE, plain_names
from jaxalign.models.lora import LoRA, adapted
from jaxalign.models.model import Model, Source, split
from jaxalign.text.chat import Chat

SPREAD = 0.02
"""Standard deviation of a new head, as transformers draws it (`initializer_range`)."""


@dataclasses.dataclass(frozen=True)
class Headed:
    """A language model whose last token is scored, by a head drawn from a seed."""

    base: Source
    """the language model; where there are low-rank differences, they are of this one: LoRA(Headed(...))"""
    outputs: int = 1
    """what is said of a conversation: 1 a reward, an even number a general preference, or one a class"""
    trunk: Literal["trained", "frozen"] = "trained"
    """whether all of the model is trained, or the head alone"""
    layers: int | None = None
    """layers of the trunk that are kept, from the first; None: all"""
    names: tuple[str, ...] = ()
    """of the outputs, for files; none: LABEL_0, LABEL_1, …"""
    seed: int = 0
    """of the head"""

    def problems(self) -> Iterable[str]:
        if self.outputs < 1:
            yield f"outputs must be at least 1, got {self.outputs}"
        if self.layers is not None and self.layers < 1:
            yield f"layers must be at least 1 or None, got {self.layers}"
        if self.names and len(set(self.names)) != self.outputs:
            yield f"names must be {self.outputs} different ones, got {list(self.names)}"
        if self.seed < 0:
            yield f"seed must not be negative, got {self.seed}"

    def open(self) -> Model:
        """Raises ModelError when the base is no plain language model that is read tensor by tensor."""
        for problem in self.problems():
            raise ModelError(f"Headed: {problem}")
        base = self.base.open()
        if not (isinstance(base.config, DecoderConfig) and isinstance(base.read, Stored)):
            raise ModelError(
                f"{base.source}: a head needs a plain decoder below it (LoRA goes around: LoRA(Headed(…)))"
            )
        if base.config.outputs:
            raise ModelError(
                f"{base.source}: has a head of {len(base.config.outputs)} outputs already; train it as it is"
            )
        config = self._config(base.config, base.source)
        read = Stored(with_score(base.read.reader, (self.outputs, config.width), self.seed), config.tensors())
        assert isinstance(base.chat, Chat)
        model = dataclasses.replace(split(config, base.chat.closed(), base.source, read), files=base.files)
        # what is frozen is what is not adapted, and here nothing is
        return adapted(LoRA(self.base, targets=()), (), model) if self.trunk == "frozen" else model

    def _config(self, base: DecoderConfig, source: str) -> DecoderConfig:
        layers = base.layers if self.layers is None else self.layers
        if layers > base.layers:
            raise ModelError(f"Headed: {layers} layers are to be kept, but {source} has {base.layers}")
        names = self.names or plain_names(self.outputs)
        return dataclasses.replace(base, layers=layers, pattern=base.pattern[:layers], outputs=names)


def with_score(reader: Reader, shape: tuple[int, int], seed: int) -> Reader:
    """The tensors of `reader` and a head of that shape: sliced where `reader` is."""
    scored = Scored(reader, shape, seed)
    return ScoredSlices(reader, scored) if isinstance(reader, SlicedReader) else scored


@dataclasses.dataclass(frozen=True)
class Scored:
    """Reader of another's tensors, and of a head that is drawn, N(0, 0.02²), rather than stored."""

    reader: Reader
    shape: tuple[int, int]
    seed: int

    def name(self, tensor: Tensor) -> str:
        return tensor.hf if tensor == SCORE else self.reader.name(tensor)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {**self.reader.shapes(), SCORE.hf: self.shape}

    def where(self, name: str) -> str:
        return f"a head of seed {self.seed}" if name == SCORE.hf else self.reader.where(name)

    def read(self, name: str, tensor: Tensor) -> np.ndarray:
        if tensor != SCORE:
            return self.reader.read(name, tensor)
        generator = np.random.default_rng([self.seed, zlib.crc32(SCORE.hf.encode())])
        return generator.standard_normal(self.shape, np.float32) * np.float32(SPREAD)

    def files(self) -> Mapping[str, Folder]:
        return self.reader.files()


@dataclasses.dataclass(frozen=True)
class ScoredSlices:
    """`scored`, whose other tensors `slices` gives in slices."""

    slices: SlicedReader
    scored: Scored

    def name(self, tensor: Tensor) -> str:
        return self.scored.name(tensor)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return self.scored.shapes()

    def where(self, name: str) -> str:
        return self.scored.where(name)

    def read(self, name: str, tensor: Tensor) -> np.ndarray:
        return self.scored.read(name, tensor)

    def files(self) -> Mapping[str, Folder]:
        return self.scored.files()

    def slice(self, tensor: Tensor, at: tuple[int, ...], index: Index) -> np.ndarray:
        return self.read(SCORE.hf, SCORE)[index] if tensor == SCORE else self.slices.slice(tensor, at, index)
