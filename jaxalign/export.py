"""Writes a policy as a Hugging Face directory: config, safetensors, tokenizer with its template, generation config.

The directory appears whole or not at all: it is written beside its place under a temporary name, flushed to the disk
and renamed.
"""

import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import ml_dtypes
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from jaxalign.chat import Chat
from jaxalign.errors import ModelError
from jaxalign.models.model import Model
from jaxalign.types import Params
from jaxalign.weights import Tensor, entries, leaf

DTYPES: dict[str, Any] = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
SHARD_BYTES = 4 * 10**9
"""Largest file of weights; also what an export holds in memory."""


@runtime_checkable
class Exportable(Protocol):
    """A family that Hugging Face knows too."""

    def tensors(self) -> tuple[Tensor, ...]: ...
    def to_hf(self) -> dict[str, Any]: ...


def export(
    model: Model,
    params: Params,
    directory: str | os.PathLike[str],
    dtype: str = "float32",
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes `params` in `dtype` to a new `directory`.

    Raises ModelError when the model has no Hugging Face form, the directory has something in it, a value does not
    fit the dtype, or the disk refuses.
    """
    target = pathlib.Path(directory)
    if not isinstance(model.config, Exportable) or not isinstance(model.chat, Chat):
        raise ModelError(f"{model.source}: this kind of model has no Hugging Face form")
    if dtype not in DTYPES:
        raise ModelError(f"export dtype {dtype!r}; known are {', '.join(DTYPES)}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ModelError(f"{target}: is there already and not an empty directory")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = pathlib.Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            describe(model.config.to_hf(), model.chat, dtype, temporary)
            save_shards(tensors(model.config, params, dtype), temporary, shard_bytes)
            commit(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{target}: cannot be written: {error}") from error


def describe(config: dict[str, Any], chat: Chat, dtype: str, directory: pathlib.Path) -> None:
    """Everything but the weights."""
    ids = {
        f"{role}_id": chat.tokenizer.token_to_id(chat.specials[role])
        for role in ("bos_token", "pad_token")
        if role in chat.specials
    }
    stop = list(chat.stop) if len(chat.stop) > 1 else chat.stop[0]
    tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": config["max_position_embeddings"],
        "chat_template": chat.template,
        **chat.specials,
    }
    write_json(directory / "config.json", {**config, "dtype": dtype, "eos_token_id": stop, **ids})
    write_json(directory / "generation_config.json", {"eos_token_id": stop, **ids})
    write_json(directory / "tokenizer_config.json", tokenizer)
    (directory / "tokenizer.json").write_text(chat.tokenizer.to_str(pretty=True), encoding="utf-8")


def tensors(config: Exportable, params: Params, dtype: str) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor as Hugging Face names and shapes it. One parameter at a time comes to the host."""
    for tensor in config.tensors():
        array = np.asarray(leaf(params, tensor.path))
        for (name, _), part in zip(
            entries(tensor, tensor.hf, params), array if tensor.stacked else [array], strict=True
        ):
            with np.errstate(over="ignore"):
                values = tensor.to_file(part).astype(DTYPES[dtype])
            if not np.isfinite(values).all():
                raise ModelError(f"tensor {name!r} has values that are not finite in {dtype}")
            yield name, values


def save_shards(named: Iterator[tuple[str, np.ndarray]], directory: pathlib.Path, limit: int) -> None:
    """model.safetensors, or numbered shards with their index once a file would be larger than `limit` bytes."""
    shards: list[pathlib.Path] = []
    where: dict[str, int] = {}
    total = 0

    def save(pending: dict[str, np.ndarray]) -> None:
        where.update(dict.fromkeys(pending, len(shards)))
        shards.append(directory / f"shard-{len(shards)}")
        save_file(pending, shards[-1], metadata={"format": "pt"})

    pending: dict[str, np.ndarray] = {}
    for name, values in named:
        if pending and sum(held.nbytes for held in pending.values()) + values.nbytes > limit:
            save(pending)
            pending = {}
        pending[name] = values
        total += values.nbytes
    save(pending)
    if len(shards) == 1:
        shards[0].rename(directory / "model.safetensors")
        return
    files = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    for shard, file in zip(shards, files, strict=True):
        shard.rename(directory / file)
    index = {"metadata": {"total_size": total}, "weight_map": {name: files[i] for name, i in where.items()}}
    write_json(directory / "model.safetensors.index.json", index)


def commit(temporary: pathlib.Path, target: pathlib.Path) -> None:
    """Flushes the files and gives the directory its name."""
    for path in (*temporary.iterdir(), temporary):
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    temporary.chmod(0o755)
    temporary.rename(target)


def write_json(path: pathlib.Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
