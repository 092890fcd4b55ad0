"""A Hugging Face directory of a sequence classifier (reward or preference model): a family's decoder with a head.

The architecture names end in ForSequenceClassification; the tensor `score.weight` [o d] is the head and there is no
matrix that scores the vocabulary. See `heads` for what o outputs mean.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxalign.errors import DataError, ModelError
from jaxalign.formats import native, weights
from jaxalign.formats.huggingface import read_json
from jaxalign.formats.weights import Tensor
from jaxalign.mesh.rounding import rounded
from jaxalign.models.decoder import Dtype
from jaxalign.models.family import config_of_hf
from jaxalign.models.heads import last_tokens, outputs
from jaxalign.models.hf_fields import HfFields
from jaxalign.models.model import Model, split
from jaxalign.text.chat import Chat, Message, from_directory, tokenized
from jaxalign.types import Params

LABELS = ("id2label", "label2id", "num_labels", "problem_type")
"""Fields of config.json that say what the outputs are called."""

SCORE = Tensor(("score",), "score.weight", None)
BUCKET = 64
"""Rows are padded to multiples of so many tokens, so that few programs are compiled."""


@dataclasses.dataclass(frozen=True, eq=False)
class Classifier:
    """An opened sequence classifier: outputs [o] of the last token of a conversation."""

    model: Model
    params: Params
    weight: Float[Array, "o d"]

    @property
    def chat(self) -> Chat:
        assert isinstance(self.model.chat, Chat)
        return self.model.chat

    @functools.cached_property
    def _compiled(self) -> Any:
        def apply(params: Params, weight: Array, tokens: Array, lengths: Array) -> Array:
            position = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
            valid = position < lengths[:, None]
            mask = (position[:, None, :] <= position[:, :, None]) & valid[:, None, :]
            hidden = self.model.hidden(params, tokens, position, mask)
            return outputs(weight, last_tokens(hidden, jnp.where(valid, 0, -1), 1)[:, 0])

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
        return np.asarray(self._compiled(self.params, self.weight, tokens, lengths))

    def conversations(self, messages: Sequence[Sequence[Message]]) -> Float[np.ndarray, "n o"]:
        """Outputs of whole conversations, the last turn being the assistant's, in the model's own template."""
        rendered = [self.chat.render(each, answering=False) for each in messages]
        return self([tokenized(self.chat.tokenizer, text, self.chat.file).ids for text in rendered])


def open_classifier(path: str, compute_dtype: Dtype = "float32") -> Classifier:
    """Reads a directory. Raises ModelError naming file and field or tensor when it is no sequence classifier."""
    home = pathlib.Path(path)
    file = home / "config.json"
    fields = read_json(file)
    named = fields.get("architectures") or [None]
    if not str(named[0]).endswith("ForSequenceClassification"):
        raise ModelError(f"{file}: architectures is {named!r}, not that of a sequence classifier")
    known = {name: value for name, value in fields.items() if name not in LABELS}
    # Nothing scores the vocabulary, so the output is the embedding, which is not used.
    config = dataclasses.replace(config_of_hf(HfFields(known, file)), compute_dtype=compute_dtype, tied=True)
    reader = native.reader(home, config.tensors())
    shape = reader.shapes().get(SCORE.hf)
    if shape is None or len(shape) != 2 or shape[1] != config.width:
        raise ModelError(f"{reader.where(SCORE.hf)}: tensor 'score.weight' is {shape}, not [outputs, {config.width}]")
    model = split(config, from_directory(home), str(home), weights.Stored(reader, config.tensors()))
    weights.check(
        reader, (*config.tensors(), SCORE), {**model.shapes, "score": np.empty(shape)}, ("rotary_emb.inv_freq",)
    )
    return Classifier(model, model.load(), jnp.asarray(reader.read(SCORE.hf, SCORE)))
