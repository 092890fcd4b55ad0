"""Reads Hugging Face model directories: JSON files and safetensors, sharded or not.

Nothing here unpickles or runs code from the directory; checkpoints that are pickles are refused by name.
"""

import json
import pathlib
from collections.abc import Collection
from typing import Any

import numpy as np
from etils import epath

from jaxalign.errors import ModelError, first_line
from jaxalign.formats.safetensors_stream import SafetensorsFile
from jaxalign.formats.weights import Folder, Tensor

DOCUMENTS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "additional_chat_templates/tool_use.jinja",
)
"""Files of a directory that say how its parameters are used."""
SINGLE, INDEX, ADAPTER = "model.safetensors", "model.safetensors.index.json", "adapter_config.json"
BUCKETS = ("gs", "s3")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def folder(path: str) -> Folder:
    """The place of a model: a path on a disk, or the URL of a bucket. Raises ModelError for another kind of URL."""
    scheme, found, _ = path.partition("://")
    if not found:
        return pathlib.Path(path)
    if scheme not in BUCKETS:
        raise ModelError(f"{path}: models are read from disks and from buckets ({', '.join(BUCKETS)})")
    return epath.Path(path)


def is_directory(path: Folder) -> bool:
    """Whether there is a directory. ModelError where nobody can tell: the name is none, the bucket unreachable."""
    try:
        return path.is_dir()
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(f"{path}: cannot be read: {first_line(error)}") from error


class Directory:
    """The tensors of one directory. Raises ModelError naming the file that is missing, cut or inconsistent.

    Read is what transformers reads: a single file wherever there is one, also beside an index of shards. Names go
    without "model." where the decoder was saved bare, and a head alone is also the embedding that it is tied to.
    """

    def __init__(self, path: Folder):
        self.path = path
        refuse_adapter(path)
        index = path / INDEX
        named = None if (path / SINGLE).is_file() or not index.is_file() else read_index(index)
        if named is None and not (path / SINGLE).is_file():
            refuse_pickles(path)
            refuse_shards(path)
        shards = {SINGLE} if named is None else set(named.values())
        self.open = {file: SafetensorsFile(path / file) for file in sorted(shards)}
        found = {key: file for file, shard in self.open.items() for key in shard.entries}
        self.map = found if named is None else named
        for key, file in self.map.items():
            if key not in self.open[file].entries:
                raise ModelError(f"{path / file}: tensor {key!r} is missing, although the index says it is here")
        self.stored = {full_name(key, self.map): key for key in self.map}
        if EMBED not in self.stored and HEAD in self.stored:
            self.stored[EMBED] = self.stored.pop(HEAD)

    def name(self, tensor: Tensor) -> str:
        return tensor.hf

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: self.open[self.map[key]].entries[key].shape for name, key in self.stored.items()}

    def where(self, name: str) -> str:
        return str(self.path / self.map.get(self.stored.get(name, name), ""))

    def read(self, name: str, tensor: Tensor) -> np.ndarray:
        key = self.stored[name]
        return self.open[self.map[key]].read(key)

    def twice(self) -> bool:
        """Whether the head that is stored beside the embedding is the same matrix, or there is none."""
        if HEAD not in self.stored:
            return True
        files = [self.open[self.map[self.stored[name]]] for name in (EMBED, HEAD)]
        return files[0].equals(self.stored[EMBED], files[1], self.stored[HEAD])

    def files(self) -> dict[str, Folder]:
        return {file: self.path / file for file in self.open} | (
            {} if SINGLE in self.open or not (self.path / INDEX).is_file() else {INDEX: self.path / INDEX}
        )


EMBED, HEAD, BARE = "model.embed_tokens.weight", "lm_head.weight", "embed_tokens.weight"


def full_name(key: str, keys: Collection[str]) -> str:
    """What a tensor is called in a whole model: a decoder that was saved alone calls its own without "model."."""
    return key if BARE not in keys or key == HEAD else f"model.{key}"


def refuse_adapter(path: Folder) -> None:
    """Raises ModelError where a PEFT adapter lies in the directory: transformers would add it to the model there."""
    if (path / ADAPTER).is_file():
        base = read_json(path / ADAPTER).get("base_model_name_or_path")
        beside = "beside a model" if (path / SINGLE).is_file() or (path / INDEX).is_file() else f"of {base!r}, no model"
        raise ModelError(
            f"{path / ADAPTER}: this is a PEFT adapter {beside}; merge it with PEFT (merge_and_unload, then "
            "save_pretrained), or move it away"
        )


def refuse_shards(path: Folder) -> None:
    """Raises ModelError when there are safetensors, but neither a single file nor an index that says what is where."""
    files = sorted(file.name for file in path.glob("*.safetensors"))
    if files:
        raise ModelError(
            f"{path / INDEX}: no such file, and {files[0]} is not {SINGLE}: shards are read by their index"
        )


def refuse_pickles(path: Folder) -> None:
    """Raises ModelError when the directory has pickled weights and no safetensors."""
    pickles = sorted(file.name for pattern in PICKLES for file in path.glob(pattern))
    if pickles and not (path / SINGLE).is_file():
        raise ModelError(
            f"{path / pickles[0]}: pickled weights can run code when they are opened and are never read; convert them "
            "to safetensors where you trust them: transformers' from_pretrained(DIR).save_pretrained(NEW)"
        )


def read_index(index: Folder) -> dict[str, str]:
    """File of each tensor. Names that leave the directory are refused."""
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict) or not named or not all(isinstance(file, str) for file in named.values()):
        raise ModelError(f"{index}: 'weight_map' should map tensor names to file names")
    for file in named.values():
        if pathlib.PurePath(file).name != file:
            raise ModelError(f"{index}: 'weight_map' names {file!r}, which is not a file of this directory")
        if not file.endswith(".safetensors"):
            raise ModelError(f"{index}: 'weight_map' names {file!r}; only safetensors are read")
    return named


def read_json(path: Folder) -> dict[str, Any]:
    """A JSON object from a file; ModelError names the file and what is wrong with it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not readable JSON ({error})") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: should hold a JSON object, not {type(value).__name__}")
    return value
