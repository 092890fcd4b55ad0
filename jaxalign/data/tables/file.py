"""A table in a file, or in many of one pattern: the name tells the format."""

import glob
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from jaxalign.data.tables import parquet, records, separated, text_files
from jaxalign.data.tables.table import Row
from jaxalign.errors import DataError

TEXTS = {
    ".jsonl": text_files.json_lines,
    ".ndjson": text_files.json_lines,
    ".json": text_files.json_file,
    ".csv": separated.commas,
    ".tsv": separated.tabs,
}
COMPRESSED = (".gz", ".zst")
KINDS = (
    ".jsonl, .ndjson, .json, .csv or .tsv, also with .gz or .zst behind it; .parquet; directories: of TFDS, of "
    "ArrayRecord files"
)


@dataclass(frozen=True)
class File:
    """Rows of a file. Its name tells the format: JSON Lines (.jsonl, .ndjson), one JSON array or one object a line
    (.json), values separated by commas or tabs under a header (.csv, .tsv: texts, and numbers where they are asked for;
    an empty cell is null), these compressed (.gz, .zst), .parquet; a directory is a prepared TFDS dataset, or holds
    ArrayRecord files of one JSON object a record.
    """

    path: str
    """the file or directory, or a pattern ("train-*.parquet") whose files are read in the order of their names"""
    split: str = "train"
    """of a TFDS directory: a split, or a slice of one as TFDS writes it: "train[:10%]" """
    max_line_bytes: int = 1 << 20
    """longest line, element of an array or record, bytes"""
    limit: int | None = None
    """read the first rows only"""

    def problems(self) -> Iterable[str]:
        if self.max_line_bytes < 1:
            yield f"max_line_bytes must be at least 1, got {self.max_line_bytes}"
        if self.limit is not None and self.limit < 1:
            yield f"limit must be at least 1, or None for all rows, got {self.limit}"

    @property
    def title(self) -> str:
        """The path, and the split where there are several."""
        return f"{self.path}: split {self.split!r}" if is_tfds(pathlib.Path(self.path)) else self.path

    def files(self) -> Mapping[str, str | os.PathLike[str]]:
        """All files that the rows are in, by their paths below the folder that they share."""
        found = [file for path in self._paths() for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
        shared = os.path.commonpath([file.parent for file in found])
        return {os.path.relpath(file, shared): file for file in found}

    def rows(self) -> Iterator[Row]:
        """The rows of all files in their order, at most `limit`."""
        return islice((row for path in self._paths() for row in self._of(path)), self.limit)

    def _paths(self) -> list[pathlib.Path]:
        # a file may have a name that reads as a pattern
        if os.path.exists(self.path) or not glob.has_magic(self.path):
            return [pathlib.Path(self.path)]
        if not (found := sorted(glob.glob(self.path))):
            raise DataError(f"{self.path}: no file has a name of this pattern")
        return [pathlib.Path(path) for path in found]

    def _of(self, path: pathlib.Path) -> Iterator[Row]:
        if is_tfds(path):
            return records.tfds(path, self.split)
        if path.is_dir():
            if next(path.glob(records.PATTERN), None) is None:
                raise DataError(
                    f"{path}: a directory with neither dataset_info.json nor {records.PATTERN}; "
                    f"of other files give a pattern, like {path / '*.parquet'}"
                )
            return records.array_records(path, self.max_line_bytes)
        if not path.is_file():
            raise DataError(f"{path}: {'not a regular file' if path.exists() else 'no such file'}")
        if path.suffix == ".parquet":
            return parquet.parquet(path)
        plain = path.with_suffix("") if path.suffix in COMPRESSED else path
        if plain.suffix not in TEXTS:
            raise DataError(f"{path}: its name tells no known format ({KINDS})")
        return TEXTS[plain.suffix](path, self.max_line_bytes)


def is_tfds(path: pathlib.Path) -> bool:
    """Whether the path is a prepared TFDS dataset."""
    return (path / "dataset_info.json").is_file()
