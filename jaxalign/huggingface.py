"""Reads Hugging Face model directories: JSON files and safetensors, sharded or not.

Nothing here unpickles or runs code from the directory; *.bin checkpoints are not read.
"""

import json
import pathlib
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from jaxalign.errors import ModelError
from jaxalign.weights import Tensor

READABLE = ("F32", "BF16", "F16")


class Directory:
    """The tensors of one directory. Raises ModelError naming the file that is missing, cut or inconsistent."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        index = path / "model.safetensors.index.json"
        named = read_index(index) if index.is_file() else None
        files = {"model.safetensors"} if named is None else set(named.values())
        self.open = {file: open_shard(path / file) for file in sorted(files)}
        found = {key: file for file, shard in self.open.items() for key in shard.keys()}  # noqa: SIM118
        self.map = found if named is None else named
        for key, file in self.map.items():
            if key not in self.open[file].keys():  # noqa: SIM118
                raise ModelError(f"{path / file}: tensor {key!r} is missing, although the index says it is here")

    def name(self, tensor: Tensor) -> str:
        return tensor.hf

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {key: tuple(self.open[name].get_slice(key).get_shape()) for key, name in self.map.items()}

    def where(self, name: str) -> str:
        return str(self.path / self.map.get(name, ""))

    def read(self, name: str, tensor: Tensor) -> np.ndarray:
        shard = self.open[self.map[name]]
        kind = shard.get_slice(name).get_dtype()
        if kind not in READABLE:
            raise ModelError(f"{self.where(name)}: tensor {name!r} is {kind}; this reads {', '.join(READABLE)}")
        return shard.get_tensor(name).astype(np.float32, copy=False)


def read_index(index: pathlib.Path) -> dict[str, str]:
    """File of each tensor. Names that leave the directory are refused."""
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict) or not named or not all(isinstance(file, str) for file in named.values()):
        raise ModelError(f"{index}: 'weight_map' should map tensor names to file names")
    for file in named.values():
        if pathlib.PurePath(file).name != file:
            raise ModelError(f"{index}: 'weight_map' names {file!r}, which is not a file of this directory")
    return named


def open_shard(path: pathlib.Path) -> Any:
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not a complete safetensors file ({error})") from error


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """A JSON object from a file; ModelError names the file and what is wrong with it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file") from error
    except (OSError, UnicodeError, json.JSONDecodeError, RecursionError) as error:
        raise ModelError(f"{path}: not readable JSON ({error})") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: should hold a JSON object, not {type(value).__name__}")
    return value
