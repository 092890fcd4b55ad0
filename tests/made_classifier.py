"""A sequence classifier that reads one conversation a row: the plain way, which judges on a mesh are compared with."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxalign.errors import DataError, ModelError
from jaxalign.mesh.rounding import rounded
from jaxalign.models.heads import last_tokens, outputs
from jaxalign.models.model import Model
from jaxalign.models.pretrained import Pretrained
from jaxalign.models.stack import Dtype
from jaxalign.text.chat import Chat, Message, tokenized
from jaxalign.types import Params

BUCKET = 64
"""Rows are padded to multiples of so many tokens, so that few programs are compiled."""


@dataclasses.dataclass(frozen=True, eq=False)
class Classifier:
    """An opened score model: outputs [o] of the last token of a conversation."""

    model: Model
    params: Params

    @property
    def outputs(self) -> int:
        return len(self.model.config.outputs)

    @property
    def chat(self) -> Chat:
        assert isinstance(self.model.chat, Chat)
        return self.model.chat

    @functools.cached_property
    def _compiled(self) -> Any:
        def apply(params: Params, tokens: Array, lengths: Array) -> Array:
            position = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
            valid = position < lengths[:, None]
            mask = (position[:, None, :] <= position[:, :, None]) & valid[:, None, :]
            hidden = self.model.hidden(params, tokens, position, mask)
            return outputs(self.model.head(params), last_tokens(hidden, jnp.where(valid, 0, -1), position, 1)[:, 0])

        return jax.jit(apply)

    def __call__(self, rows: Sequence[Sequence[int]]) -> Float[np.ndarray, "n o"]:
        """fp32 outputs of each row of ids. DataError names a row that is empty or longer than the model's context."""
        for index, row in enumerate(rows):
            if not 0 < len(row) <= self.model.config.context:
                raise DataError(f"row {index} has {len(row)} tokens; the model reads 1 to {self.model.config.context}")
        width = rounded(max(map(len, rows)), BUCKET)
        tokens = np.zeros((len(rows), width), np.int32)
        for index, row in enumerate(rows):
            tokens[index, : len(row)] = row
        lengths: Int[np.ndarray, " n"] = np.array([len(row) for row in rows], np.int32)
        return np.asarray(self._compiled(self.params, tokens, lengths))

    def conversations(self, messages: Sequence[Sequence[Message]]) -> Float[np.ndarray, "n o"]:
        """Outputs of whole conversations, the last turn being the assistant's, in the model's own template."""
        return self([self.ids(each) for each in messages])

    def ids(self, messages: Sequence[Message]) -> list[int]:
        """A whole conversation, as the model's template writes it."""
        return tokenized(self.chat.tokenizer, self.chat.render(messages, answering=False), self.chat.file).ids


def open_classifier(path: str, compute_dtype: Dtype = "float32") -> Classifier:
    """Reads a directory. Raises ModelError naming file and field or tensor when it is no sequence classifier."""
    model = Pretrained(path, compute_dtype).open()
    if not model.config.outputs:
        raise ModelError(f"{path}/config.json: architectures does not name a sequence classifier")
    return Classifier(model, model.load())
