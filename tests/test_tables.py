"""Tables in files of every format: the same rows from each, damage named, little held in memory."""

import gzip
import json
import pathlib
import tracemalloc
from collections.abc import Callable

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from made_comparisons import read
from made_examples import examples, named

from jaxalign.data.comparisons.pairs import Pairs
from jaxalign.data.tables import file as tables_file
from jaxalign.data.tables import inline, strict
from jaxalign.data.tables.file import File
from jaxalign.data.tables.strict import OnBadRow
from jaxalign.data.tables.table import Table
from jaxalign.errors import DataError

ROWS = [
    {
        "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"Why {number}?\u2028"}],
        "chosen": f'So {number}. ✓\n[]{{}}"',
        "rejected": "",
        "margin": number / 4,
        "tie": number % 2 == 0,
    }
    for number in range(700)  # more than one batch of rows
]


def as_lines(rows: list[dict]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def zstd(content: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


def plain_file(name: str, content: bytes) -> Callable[[pathlib.Path], str]:
    def write(folder: pathlib.Path) -> str:
        (folder / name).write_bytes(content)
        return str(folder / name)

    return write


def parquet(folder: pathlib.Path) -> str:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), folder / "rows.parquet", row_group_size=300)
    return str(folder / "rows.parquet")


def shards(folder: pathlib.Path) -> str:
    for number, first in enumerate(range(0, len(ROWS), 100)):
        table = pyarrow.Table.from_pylist(ROWS[first : first + 100])
        pyarrow.parquet.write_table(table, folder / f"train-{number:05}-of-00007.parquet")
    return str(folder / "train-*.parquet")


def array_records(folder: pathlib.Path) -> str:
    for number in range(2):
        writer = ArrayRecordWriter(str(folder / f"rows-{number}.array_record"), "group_size:1")
        for row in ROWS[number * 400 : number * 400 + 400]:
            writer.write(json.dumps(row).encode())
        writer.close()
    return str(folder)


def tfds_directory(folder: pathlib.Path) -> str:
    text = tfds.features.Text()
    features = tfds.features.FeaturesDict(
        {
            "prompt": tfds.features.Sequence({"role": text, "content": text}),
            "chosen": text,
            "rejected": text,
            "margin": np.float32,
            "tie": np.bool_,
        }
    )
    identity = tfds.core.dataset_info.DatasetIdentity(
        name="rows", version=tfds.core.Version("1.0.0"), data_dir=str(folder), module_name=__name__
    )
    info = tfds.core.DatasetInfo(builder=identity, features=features)
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=500, file_format="array_record")
    writer.initialize_splits(["train", "test"])
    writer.add_examples({"train": ROWS, "test": ROWS[:1]})
    writer.close_all()
    return str(folder)


FORMATS = {
    "lines": plain_file("rows.jsonl", as_lines(ROWS)),
    "ndjson": plain_file("rows.ndjson", as_lines(ROWS)[:-1]),
    "gzip": plain_file("rows.jsonl.gz", gzip.compress(as_lines(ROWS[:3])) + gzip.compress(as_lines(ROWS[3:]))),
    "zstd": plain_file("rows.jsonl.zst", zstd(as_lines(ROWS[:3])) + zstd(as_lines(ROWS[3:]))),
    "lines in .json": plain_file("rows.json", b" " + as_lines(ROWS)[:-1]),
    "array": plain_file("rows.json", json.dumps(ROWS).encode()),
    "array over many lines": plain_file("rows.json", json.dumps(ROWS, indent=4, ensure_ascii=False).encode()),
    "array, gzip": plain_file("rows.json.gz", gzip.compress(json.dumps(ROWS).encode())),
    "Parquet": parquet,
    "Parquet in shards": shards,
    "ArrayRecord": array_records,
    "TFDS": tfds_directory,
}


@pytest.mark.parametrize("write", FORMATS.values(), ids=FORMATS)
def test_every_format_holds_the_same_rows(write: Callable[[pathlib.Path], str], tmp_path: pathlib.Path):
    path = write(tmp_path)
    found = list(File(path).rows())
    assert [dict(row.values) for row in found] == ROWS
    assert len({row.place for row in found}) == len(found), "every place is a place of its own"
    assert [dict(row.values) for row in File(path, limit=5).rows()][-3:] == ROWS[2:5]
    assert all(pathlib.Path(file).is_file() for file in File(path).files().values())
    assert len(File(path).files()) >= 1


@pytest.mark.parametrize("example", examples(inline, Table, least=1).values(), ids=named)
def test_a_table_names_its_rows(example: Table):
    assert [row.place for row in example.rows()] == ["inline rows:1"]
    assert examples(tables_file, Table, least=0) == {}  # it reads files


@pytest.mark.parametrize("example", examples(strict, OnBadRow, least=2).values(), ids=named)
def test_no_bad_row_is_always_allowed(example: OnBadRow):
    assert example.allows(0, 10)
    assert not example.allows(10, 10)


def refusal(path: pathlib.Path | str, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        list(File(str(path), **options).rows())
    return str(caught.value)


def spoilt(text: bytes) -> bytes:
    """A Parquet file in which a text, of a row or of the schema, is not UTF-8 wherever it stands."""
    sink = pyarrow.BufferOutputStream()
    rows = [{"prompt": "Why?", "chosen": "So.", "rejected": "No."}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink, compression="none", store_schema=False)
    return sink.getvalue().to_pybytes().replace(text, b"\xff" * len(text))


GOOD = as_lines(ROWS)
DAMAGED = {
    "cut gzip": ("rows.jsonl.gz", gzip.compress(GOOD)[:-20], "cannot be read: "),
    "no gzip": ("rows.jsonl.gz", GOOD, "cannot be read: Not a gzipped file"),
    "spoilt gzip": ("rows.jsonl.gz", gzip.compress(GOOD)[:500] + b"\0" * 50 + gzip.compress(GOOD)[550:], "cannot be"),
    "cut zstd": ("rows.jsonl.zst", zstd(GOOD)[:-20], "cannot be read: "),
    "no zstd": ("rows.jsonl.zst", GOOD, "cannot be read: "),
    "compressed lines": ("rows.jsonl", gzip.compress(GOOD), "is compressed; gunzip gives what is read"),
    "a compressed array": ("rows.json", gzip.compress(GOOD), "is compressed; gunzip gives what is read"),
    "compressed values": ("rows.csv", zstd(GOOD), "is compressed; zstd -d gives what is read"),
    "a workbook": ("rows.csv", b"PK\x03\x04" + GOOD, "is compressed; unzip gives what is read"),
    "an array of lines": ("rows.jsonl", json.dumps(ROWS, indent=1).encode(), "begins as a JSON array; "),
    "no parquet": ("rows.parquet", GOOD, "cannot be read behind row 0: "),
    "parquet of texts that are none": ("rows.parquet", spoilt(b"Why?"), "cannot be read behind row 0: "),
    "parquet whose column has no name": ("rows.parquet", spoilt(b"chosen"), "cannot be read behind row 0: "),
    "empty parquet": ("rows.parquet", b"", "cannot be read behind row 0: "),
    "unknown name": ("rows.xlsx", GOOD, "its name tells no known format (.jsonl"),
    "no name": ("rows", GOOD, "its name tells no known format"),
    "only compressed": ("rows.gz", gzip.compress(GOOD), "its name tells no known format"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_and_unknown_files_are_named(case: str, tmp_path: pathlib.Path):
    name, content, expected = DAMAGED[case]
    path = tmp_path / name
    path.write_bytes(content)
    assert refusal(path).startswith(f"{path}: {expected}")


ARRAYS = {
    "cut": ('[{"a": 1},\n{"a": ', "2: not JSON: Expecting value"),
    "not closed": ('[{"a": 1}\n', "2: the end where ']' belongs"),
    "two values": ('[{"a": 1}]\n[{"a": 2}]', "2: '[{\"a\": 2}]' behind the end of the array"),
    "no comma": ('[{"a": 1}\n\n {"a": 2}]', "3: '{\"a\": 2}]' where ']' belongs"),
    "comma at the end": ('[{"a": 1},\n]', "2: not JSON: Expecting value"),
    "endless": ('[\n{"a": "' + "x" * 500_000 + '"}]', "2: no element that ends within 1000 bytes"),
    "huge integer": ("[\n" + "9" * 9999 + "]", "2: an integer of too many digits"),
    "deep": ("[" * 100_000 + "]" * 100_000, "1: nested too deeply"),
    "not UTF-8": (b'[{"a": 1},\n\xff]', "1: not UTF-8: byte 0xff in this line or below"),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_an_array_ends_where_nobody_can_read_on(case: str, tmp_path: pathlib.Path):
    content, expected = ARRAYS[case]
    path = tmp_path / "rows.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert refusal(path, max_line_bytes=1000).startswith(f"{path}:{expected}")


def test_elements_of_an_array_that_are_no_rows_leave_the_others(tmp_path: pathlib.Path):
    path = tmp_path / "rows.json"
    path.write_text('[{"a": 1},\n 3,\n{"a": NaN}, {"b": 1,\n "b": 2},\n\n{"a": 2},{"a":"' + "x" * 90 + '"}]')
    found = list(File(str(path), max_line_bytes=80).rows())
    assert [row.place for row in found] == [f"{path}:{line}" for line in (1, 2, 3, "3 element 4", 6, "6 element 6")]
    assert [str(row.values) for row in found] == [
        "{'a': 1}",
        " number where an object belongs",
        "a: NaN is not a finite number",
        "b: appears twice in one object",
        "{'a': 2}",
        " line longer than 80 bytes",
    ]
    path.write_text(" [ ] ")
    assert list(File(str(path)).rows()) == []


def test_missing_and_odd_places(tmp_path: pathlib.Path):
    assert refusal(tmp_path / "gone.jsonl").endswith("gone.jsonl: no such file")
    assert refusal(tmp_path / "gone-*.jsonl").endswith("gone-*.jsonl: no file has a name of this pattern")
    assert "a directory with neither dataset_info.json nor *.array_record*" in refusal(tmp_path)
    assert "split 'dev' cannot be opened (splits: ['test', 'train'])" in refusal(tfds_directory(tmp_path), split="dev")
    assert len(list(File(str(tmp_path), split="train[:10%]").rows())) == 70
    (tmp_path / "[a].jsonl").write_bytes(GOOD)
    assert len(list(File(str(tmp_path / "[a].jsonl")).rows())) == len(ROWS), "a name that reads as a pattern"


def test_a_damaged_record_is_named(tmp_path: pathlib.Path):
    path = pathlib.Path(array_records(tmp_path)) / "rows-0.array_record"
    content = bytearray(path.read_bytes())
    content[20_000] ^= 255  # the rest of the file is padding
    path.write_bytes(bytes(content))
    assert refusal(tmp_path).startswith(f"{path}: cannot be read: ")


def test_settings_that_cannot_be_are_named():
    assert list(File("x", max_line_bytes=0, limit=0).problems()) == [
        "max_line_bytes must be at least 1, got 0",
        "limit must be at least 1, or None for all rows, got 0",
    ]


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.json", "rows.parquet"])
def test_few_rows_are_in_memory(name: str, tmp_path: pathlib.Path):
    """Four times the rows take no more memory: 20 MB of text do not enter it."""
    peaks = []
    for count in (250, 1_000):
        rows = [{"prompt": f"Why {n}?", "chosen": "x" * 20_000, "rejected": ""} for n in range(count)]
        path = tmp_path / name
        if name.endswith("parquet"):
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=100)
        else:
            path.write_bytes(gzip.compress(as_lines(rows), 1) if name.endswith("gz") else json.dumps(rows).encode())
        del rows
        tracemalloc.start()
        assert sum(1 for _ in Pairs(File(str(path))).read(strict.Tally())) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 1e6 < 10e6


def test_a_source_over_a_file_is_read_as_over_rows(tmp_path: pathlib.Path):
    path = plain_file("rows.jsonl", as_lines([row | {"tie": False} for row in ROWS[:4]]))(tmp_path)
    found = read(Pairs(File(path), margin_field="margin"))
    assert [one.margin for one in found] == [0, 0.25, 0.5, 0.75]
    assert [one.prompt.id for one in found] == [one.place for one in found] == [f"{path}:{n}" for n in (1, 2, 3, 4)]
