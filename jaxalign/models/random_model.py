"""A random model of any family that speaks bytes: what is built on models is tested with each of them."""

import dataclasses
from collections.abc import Iterable

from jaxalign.errors import ModelError
from jaxalign.models.decoder import DecoderConfig
from jaxalign.models.model import Model, split
from jaxalign.models.random_llama import byte_chat, drawn


@dataclasses.dataclass(frozen=True)
class RandomModel:
    """Source of a model of any shape with random weights, a token for each byte (in place of its own), and ChatML."""

    config: DecoderConfig
    """the shape, family included"""
    seed: int = 0
    """of the weights"""

    def problems(self) -> Iterable[str]:
        yield from self.config.problems()
        if self.seed < 0:
            yield f"seed must not be negative, got {self.seed}"

    def open(self) -> Model:
        """Raises ModelError when the sizes do not fit each other."""
        for problem in self.problems():
            raise ModelError(f"RandomModel: {problem}")
        chat = byte_chat()
        config = dataclasses.replace(self.config, vocab=chat.vocab)
        source = f"random {config.family.model_type}, seed {self.seed}"
        return split(config, chat, source, drawn(config, self.seed))
