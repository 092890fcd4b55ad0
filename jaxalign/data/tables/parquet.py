"""Parquet files: rows in batches, so that few are in memory."""

import pathlib
from collections.abc import Iterator

from jaxalign.data.tables.table import Row
from jaxalign.errors import DataError

ROWS = 256
"""Rows decoded at once."""


def parquet(path: pathlib.Path) -> Iterator[Row]:
    """Rows of a Parquet file, counted from 1. DataError naming a file that is none or is damaged."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        # what is read ahead of a row group is its columns whole
        with ParquetFile(path, pre_buffer=False, memory_map=False) as file:
            for batch in file.iter_batches(ROWS, use_threads=False):
                batch.validate(full=True)
                for values in batch.to_pylist():
                    number += 1
                    yield Row(f"{path}:{number}", values)
    except (OSError, pyarrow.ArrowException, ValueError, OverflowError) as error:  # no UTF-8, times beyond Python's
        raise DataError(f"{path}: cannot be read behind row {number}: {error}") from error
