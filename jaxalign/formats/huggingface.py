"""Reads Hugging Face model directories: JSON files and safetensors, sharded or not.

Nothing here unpickles or runs code from the directory; checkpoints that are pickles are refused by name.
"""

import json
import pathlib
from typing import Any

import numpy as np
from etils import epath

from jaxalign.errors import ModelError
from jaxalign.formats.safetensors_stream import SafetensorsFile
from jaxalign.formats.weights import Folder, Tensor

DOCUMENTS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
"""Files of a directory that say how its parameters are used."""
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def folder(path: str) -> Folder:
    """The place of a model: a path on a disk, or the URL of a bucket."""
    return epath.Path(path) if "://" in path else pathlib.Path(path)


class Directory:
    """The tensors of one directory. Raises ModelError naming the file that is missing, cut or inconsistent."""

    def __init__(self, path: Folder):
        self.path = path
        index = path / INDEX
        named = read_index(index) if index.is_file() else None
        if named is None:
            refuse_pickles(path)
        shards = {SINGLE} if named is None else set(named.values())
        self.open = {file: SafetensorsFile(path / file) for file in sorted(shards)}
        found = {key: file for file, shard in self.open.items() for key in shard.entries}
        self.map = found if named is None else named
        for key, file in self.map.items():
            if key not in self.open[file].entries:
                raise ModelError(f"{path / file}: tensor {key!r} is missing, although the index says it is here")

    def name(self, tensor: Tensor) -> str:
        return tensor.hf

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {key: self.open[file].entries[key].shape for key, file in self.map.items()}

    def where(self, name: str) -> str:
        return str(self.path / self.map.get(name, ""))

    def read(self, name: str, tensor: Tensor) -> np.ndarray:
        return self.open[self.map[name]].read(name)

    def files(self) -> dict[str, Folder]:
        return {file: self.path / file for file in self.open} | (
            {INDEX: self.path / INDEX} if (self.path / INDEX).is_file() else {}
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
