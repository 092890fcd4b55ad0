"""Writes models as Hugging Face directories: config, safetensors, tokenizer with its template, generation config.

One part of one parameter (a layer, a matrix of an expert) at a time comes to the host and goes into its file. The
directory appears whole or not at all: it is written beside its place under a temporary name, flushed to the disk and
renamed.
"""

import contextlib
import json
import math
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxalign.errors import ModelError
from jaxalign.formats import safetensors_stream, weights
from jaxalign.formats.huggingface import INDEX, SINGLE
from jaxalign.formats.native import DTYPES
from jaxalign.formats.weights import SlicedReader, Stored, Tensor, all_finite, entries, leaf
from jaxalign.models.low_rank import dense, is_trained
from jaxalign.models.model import Exportable, Model
from jaxalign.text.added_tokens import is_name
from jaxalign.text.chat import SETTINGS, Chat
from jaxalign.types import Params

SHARD_BYTES = 4 * 10**9
"""Largest file of weights."""

Values = Callable[[Tensor], Iterator[np.ndarray]]
"""The parts of a parameter, one for each index of its leading axes, in order; shaped as in files, of any dtype."""


def export(
    model: Model,
    params: Params,
    directory: str | os.PathLike[str],
    dtype: str = "float32",
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes `params`, wherever they are kept, in `dtype` to a new `directory`.

    Raises ModelError when the model has no Hugging Face form, the directory has something in it, a value does not
    fit the dtype, or the disk refuses.
    """
    write(model, partial(from_arrays, params), directory, dtype, shard_bytes)


def convert(model: Model, directory: str | os.PathLike[str], dtype: str, shard_bytes: int = SHARD_BYTES) -> None:
    """As `export`, of the parameters in the model's own files: they never come to a device."""
    if not isinstance(model.read, Stored):
        raise ModelError(f"{model.source}: its parameters are in no files")
    write(model, partial(from_files, model.read.reader, model.shapes), directory, dtype, shard_bytes)


def from_arrays(params: Params, tensor: Tensor) -> Iterator[np.ndarray]:
    """The layers of one tensor as its file has them, of parameters that lie on devices or on the host."""
    array = leaf(params, tensor.path)
    for at in np.ndindex(*array.shape[: tensor.stacked]):
        yield tensor.to_file(np.asarray(part_of(array, at)))


def part_of(array: Any, at: tuple[int, ...]) -> Any:
    """One layer of a stacked parameter, or all of one that is not stacked."""
    if isinstance(array, np.ndarray):
        return array[at]
    return pick(array, np.asarray(at, np.int32)) if at or is_trained(array) else array


@jax.jit
def pick(array: Any, at: jax.Array) -> jax.Array:
    """array[at], compiled once for all layers; with its low-rank difference added where it has one."""
    return dense(jax.tree.map(lambda part: part[tuple(at)], array))


def from_files(reader: weights.Reader, shapes: Params, tensor: Tensor) -> Iterator[np.ndarray]:
    """The layers of one tensor as its file has them, read one at a time."""
    shape = leaf(shapes, tensor.path).shape
    whole = tuple(slice(0, size) for size in shape[tensor.stacked :])
    for at in np.ndindex(*shape[: tensor.stacked]):
        if isinstance(reader, SlicedReader):
            yield tensor.to_file(reader.slice(tensor, at, whole))
        else:
            yield reader.read(reader.name(tensor).format(*at), tensor)


def write(model: Model, values: Values, directory: str | os.PathLike[str], dtype: str, shard_bytes: int) -> None:
    """Writes a directory with the parts that `values` gives."""
    target = pathlib.Path(directory)
    if not isinstance(model.config, Exportable) or not isinstance(model.chat, Chat):
        raise ModelError(f"{model.source}: this kind of model has no Hugging Face form")
    if dtype not in DTYPES:
        raise ModelError(f"export dtype {dtype!r}; known are {', '.join(DTYPES)}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ModelError(f"{target}: is there already and not an empty directory")
    try:
        with appearing(target) as temporary:
            for name, content in documents(model.config, model.chat, dtype).items():
                (temporary / name).write_bytes(content)
            listed = [
                (name, shape)
                for tensor in model.config.tensors()
                for name, shape in entries(tensor, tensor.hf, model.shapes)
            ]
            arrays = cast(model.config.tensors(), model.shapes, values, dtype)
            save_shards(listed, arrays, temporary, DTYPES[dtype], shard_bytes)
    except OSError as error:
        raise ModelError(f"{target}: cannot be written: {error}") from error


def cast(tensors: tuple[Tensor, ...], shapes: Params, values: Values, dtype: str) -> Iterator[np.ndarray]:
    """Every part in `dtype`, holding no other while one is made. Raises ModelError naming one with values that do not
    fit."""
    for tensor in tensors:
        parts = values(tensor)
        for at in np.ndindex(*leaf(shapes, tensor.path).shape[: tensor.stacked]):
            with np.errstate(over="ignore"):
                array = next(parts).astype(DTYPES[dtype], copy=False)
            if not all_finite(array):
                raise ModelError(f"tensor {tensor.hf.format(*at)!r} has values that are not finite in {dtype}")
            yield array
            del array


def documents(config: Exportable, chat: Chat, dtype: str) -> dict[str, bytes]:
    """Every file but the weights, by name."""
    fields = config.to_hf()
    ids = named_ids(chat)
    stop = list(chat.stop) if len(chat.stop) > 1 else chat.stop[0]
    tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": fields["max_position_embeddings"],
        "chat_template": templates(chat),
        **{name: text for name, text in chat.specials.items() if is_name(name, text)},
    }
    if unnamed := {name: text for name, text in chat.specials.items() if not is_name(name, text)}:
        tokenizer["extra_special_tokens"] = unnamed
    generation = {name: value for name, value in chat.settings.items() if name in SETTINGS}
    tokenizer |= {name: value for name, value in chat.settings.items() if name not in SETTINGS}
    return {
        "config.json": to_json({**fields, "dtype": dtype, "eos_token_id": stop, **ids}),
        "generation_config.json": to_json({**generation, "eos_token_id": stop, **ids}),
        "tokenizer_config.json": to_json(tokenizer),
        "tokenizer.json": chat.tokenizer.to_str(pretty=True).encode(),
    }


def named_ids(chat: Chat) -> dict[str, int | None]:
    """Ids of special tokens as config.json has them. That of padding says which token a classifier is judged by: it is
    the one that was read, or none where none was and the tokenizer's ends turns."""
    ids = {
        f"{role}_id": chat.tokenizer.token_to_id(chat.specials[role])
        for role in ("bos_token", "pad_token")
        if role in chat.specials
    }
    if chat.classifies and chat.unread is not None:
        ids["pad_token_id"] = chat.unread
    elif chat.classifies and ids.get("pad_token_id") in chat.stop:
        del ids["pad_token_id"]
    return ids


def templates(chat: Chat) -> str | list[dict[str, str]]:
    """The template as tokenizer_config.json has it: with names where there is another one for tools."""
    if chat.tool_template is None:
        return chat.template
    return [{"name": "default", "template": chat.template}, {"name": "tool_use", "template": chat.tool_template}]


def save_shards(
    listed: list[tuple[str, tuple[int, ...]]],
    arrays: Iterator[np.ndarray],
    directory: pathlib.Path,
    dtype: np.dtype,
    limit: int,
) -> None:
    """model.safetensors, or numbered shards with their index once a file would be larger than `limit` bytes."""
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    room = limit
    for name, shape in listed:
        size = math.prod(shape) * dtype.itemsize
        if size > room and shards[-1]:
            shards.append({})
            room = limit
        shards[-1][name] = shape
        room -= size
    count = len(shards)
    files = [SINGLE] if count == 1 else [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    for file, shapes in zip(files, shards, strict=True):
        safetensors_stream.write(directory / file, dtype, shapes, arrays)
    if count > 1:
        total = sum(math.prod(shape) for _, shape in listed) * dtype.itemsize
        where = {name: file for file, shapes in zip(files, shards, strict=True) for name in shapes}
        (directory / INDEX).write_bytes(to_json({"metadata": {"total_size": total}, "weight_map": where}))


@contextlib.contextmanager
def appearing(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """A directory to fill, which gets the name `target` when the block ends, and is deleted when it raises."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield temporary
        for path in (*temporary.iterdir(), temporary):
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)
        temporary.chmod(0o755)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def to_json(value: dict[str, Any]) -> bytes:
    """The bytes of a JSON file, indented as transformers writes them."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
