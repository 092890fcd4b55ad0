"""Directories of ArrayRecord files: prepared TFDS datasets, and plain ones whose records are JSON objects."""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxalign.data import jsonl, tfds_store
from jaxalign.data.jsonl import RowError
from jaxalign.data.tables.table import Row
from jaxalign.errors import DataError

PATTERN = "*.array_record*"
ROWS = 256
"""Records read at once."""


def tfds(directory: pathlib.Path, split: str) -> Iterator[Row]:
    """Records of a split of a prepared TFDS dataset, named DIRECTORY:SPLIT:NUMBER, from 0 as TFDS counts."""
    features, records = tfds_store.opened(directory, split)
    lists = tfds_store.record_lists(features)
    for number in range(len(records)):
        place = f"{directory}:{split}:{number}"
        try:
            record = records[number]
        except Exception as error:  # damage shows as whatever the readers of ArrayRecord and of its protos raise
            raise DataError(f"{place}: cannot be read: {error}") from error
        try:
            yield Row(place, {name: items(part) if name in lists else part for name, part in plain(record, "").items()})
        except RowError as error:
            yield Row(place, error)


def plain(value: Any, field: str) -> Any:
    """A decoded value in the types of JSON. RowError for text that is not UTF-8."""
    if isinstance(value, dict):
        return {name: plain(part, f"{field}.{name}" if field else name) for name, part in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [plain(part, f"{field}[{index}]") for index, part in enumerate(value)]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise RowError(field, f"not UTF-8: byte 0x{value[error.start]:02x}") from None
    return value.item() if isinstance(value, np.generic) else value


def items(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """A list of records, which TFDS holds as a record of lists."""
    return [dict(zip(columns, parts, strict=True)) for parts in zip(*columns.values(), strict=True)]


def array_records(directory: pathlib.Path, max_line_bytes: int) -> Iterator[Row]:
    """Records of all ArrayRecord files of a directory, one JSON object each, named FILE:NUMBER from 1."""
    for path in sorted(directory.glob(PATTERN)):
        for number, record in enumerate(_records(path), 1):
            try:
                if len(record) > max_line_bytes:
                    raise RowError("", f"record longer than {max_line_bytes} bytes")
                yield Row(f"{path}:{number}", jsonl.parse_object(record))
            except RowError as error:
                yield Row(f"{path}:{number}", error)


def _records(path: pathlib.Path) -> Iterator[bytes]:
    from array_record.python.array_record_module import ArrayRecordReader

    try:
        reader = ArrayRecordReader(str(path), "readahead_buffer_size:0")
        try:
            for first in range(0, reader.num_records(), ROWS):
                block: Sequence[bytes] = reader.read(first, min(first + ROWS, reader.num_records()))
                yield from block
        finally:
            reader.close()
    except (OSError, RuntimeError, ValueError, IndexError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
