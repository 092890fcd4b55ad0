"""A Hugging Face directory or a GGUF file → a native directory (see `native`), one part of one parameter at a time.

An import that is stopped goes on where it was: a parameter whose record is there is read back, compared with its
checksums and kept. What the import was made from is recorded first, so that two sources never mix.
"""

import hashlib
import json
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath

from jaxalign.errors import ModelError, first_line
from jaxalign.exchange import export
from jaxalign.formats import native
from jaxalign.formats.gguf import GgufFile
from jaxalign.formats.huggingface import DOCUMENTS, Directory
from jaxalign.formats.weights import Reader, Stored, Tensor, all_finite, leaf, part
from jaxalign.models.model import Exportable, Model
from jaxalign.storage import canonical, durable
from jaxalign.text.chat import Chat
from jaxalign.types import Params

SOURCE = "import.json"

Report = Callable[[str], None]
"""Told the name of each parameter once it is there."""


def import_model(
    model: Model, directory: str | os.PathLike[str], dtype: str, report: Report = lambda name: None
) -> bool:
    """Writes the parameters of `model`, opened from files, to `directory`; False when they were all there already.

    Raises ModelError when the model comes from no files, the directory holds something else, a value does not fit the
    dtype, or the disk refuses.
    """
    path = durable.absolute(directory)
    config, chat = model.config, model.chat
    if not isinstance(model.read, Stored) or not isinstance(chat, Chat) or not isinstance(config, Exportable):
        raise ModelError(f"{model.source}: only models in files can be imported")
    reader = model.read.reader
    if isinstance(reader, native.Native):
        raise ModelError(f"{model.source}: is a native directory already; copy it instead")
    if not isinstance(reader, Directory | GgufFile):
        raise ModelError(f"{model.source}: only models in files can be imported")
    source = {"dtype": dtype, "files": fingerprint(reader)}
    if (path / native.MANIFEST).exists():
        refuse_other(path, source, native.read_manifest(path)[0])
        tidy(path)
        return False
    try:
        begin(path, source)
        describe(config, chat, reader, path)
        records = {}
        for tensor in model.read.tensors:
            records[native.key(tensor)] = parameter(reader, tensor, model.shapes, path, dtype)
            report(native.key(tensor))
        native.write_manifest(path, source, records)
        tidy(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be written: {first_line(error)}") from error
    return True


def begin(path: epath.Path, source: dict[str, Any]) -> None:
    """Claims a new or empty directory for `source`, or takes up an import of it. Raises ModelError otherwise."""
    if (path / SOURCE).exists():
        try:
            refuse_other(path, source, json.loads((path / SOURCE).read_bytes()))
        except ValueError as error:
            raise ModelError(f"{path / SOURCE}: damaged ({error}); delete {path} and import again") from error
    elif path.exists() and (not path.is_dir() or any(not entry.name.startswith(".") for entry in path.iterdir())):
        raise ModelError(f"{path}: is there already and not an empty directory")
    durable.make_directory(path)
    durable.write_file(path / SOURCE, canonical.to_json(source))
    durable.make_directory(path / native.RECORDS)


def tidy(path: epath.Path) -> None:
    """Deletes what only an import that goes on would need."""
    if (path / native.RECORDS).exists():
        (path / native.RECORDS).rmtree()
    (path / SOURCE).unlink(missing_ok=True)


def refuse_other(path: epath.Path, source: dict[str, Any], found: Any) -> None:
    """Raises ModelError where a directory holds an import of something else than `source`."""
    if found != source:
        raise ModelError(
            f"{path}: holds an import of other files, or in another dtype; choose another directory or delete this one"
        )


def fingerprint(reader: Directory | GgufFile) -> dict[str, Any]:
    """Name, bytes, time of change and SHA-256 of the header of each file of weights.

    The values are not hashed: it would read everything twice.
    """
    if isinstance(reader, GgufFile):
        headers = {reader.path: bytes(reader.data[: reader.header])}
    else:
        headers = {file.path: file.header for file in reader.open.values()}
    found = {}
    for file, header in headers.items():
        facts = epath.Path(file).stat()
        found[file.name] = [facts.length, facts.mtime, hashlib.sha256(header).hexdigest()]
    return found


def describe(config: Exportable, chat: Chat, reader: Directory | GgufFile, path: epath.Path) -> None:
    """Everything but the parameters: copied, or for GGUF written as an export writes it."""
    if isinstance(reader, Directory):
        files = {name: reader.path / name for name in DOCUMENTS}
        contents = {name: file.read_bytes() for name, file in files.items() if file.is_file()}
    else:
        contents = export.documents(config, chat, "float32")
    for name, content in contents.items():
        durable.make_directory((path / name).parent)
        durable.write_file(path / name, content)


def parameter(reader: Reader, tensor: Tensor, shapes: Params, path: epath.Path, dtype: str) -> native.Record:
    """Writes one parameter and its record, unless both are there and fit."""
    name, shape = native.key(tensor), leaf(shapes, tensor.path).shape
    file = path / native.RECORDS / f"{name}.json"
    if file.exists() and (kept := whole(path, tensor, native.Record(shape, dtype, ()), file)) is not None:
        return kept
    array = native.create_array(path, name, shape, tensor.stacked, dtype)
    sums = []
    for at in np.ndindex(*shape[: tensor.stacked]):
        values = part(reader, tensor, shape[tensor.stacked :], at)
        sums.append(write_part(array[at] if at else array, values, dtype, f"{tensor.hf.format(*at)!r}"))
    made = native.Record(shape, dtype, tuple(sums))
    durable.write_file(file, canonical.to_json(made.to_json()))
    return made


def write_part(array: Any, values: np.ndarray, dtype: str, name: str) -> str:
    """Writes `values` rows at a time, in whole chunks, and returns their SHA-256. ModelError when they overflow."""
    rows = array.chunk_layout.read_chunk.shape[-values.ndim]
    rows *= max(1, BLOCK // max(1, rows * (values.size // len(values)) * native.DTYPES[dtype].itemsize))
    total = hashlib.sha256()
    for start in range(0, len(values), rows):
        with np.errstate(over="ignore"):
            block = np.ascontiguousarray(values[start : start + rows].astype(native.DTYPES[dtype]))
        if not all_finite(block):
            raise ModelError(f"tensor {name} has values that are not finite in {dtype}")
        total.update(block.reshape(-1).view(np.uint8).data)
        array[start : start + len(block)].write(block).result()
    return total.hexdigest()


BLOCK = 64 * 2**20
"""Bytes that are cast, hashed and written together."""


def whole(path: epath.Path, tensor: Tensor, wanted: native.Record, file: epath.Path) -> native.Record | None:
    """The record in `file`, if it is of the wanted shape and dtype and every part of its parameter fits it."""
    try:
        kept = native.record(json.loads(file.read_bytes()))
        if (kept.shape, kept.dtype) != (wanted.shape, wanted.dtype):
            return None
        array = native.open_array(path, native.key(tensor), kept)
        for at, expected in zip(np.ndindex(*kept.shape[: tensor.stacked]), kept.sha256, strict=True):
            if native.digest(native.read_array(path, native.key(tensor), array[at] if at else array)) != expected:
                return None
    except (OSError, ValueError, ModelError):
        return None  # it will be made again
    return kept
