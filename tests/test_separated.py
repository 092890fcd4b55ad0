"""Tables of values between commas or tabs: the comparisons of the same rows in JSON Lines; errors name lines."""

import csv
import dataclasses
import gzip
import io
import json
import pathlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_comparisons import over, read

from jaxalign.data.comparisons.fields import plain
from jaxalign.data.comparisons.guess import guessed
from jaxalign.data.comparisons.labels import Choice
from jaxalign.data.comparisons.pairs import Pairs
from jaxalign.data.comparisons.record import Comparison
from jaxalign.data.jsonl import RowError
from jaxalign.data.tables.file import File
from jaxalign.data.tables.inline import Inline
from jaxalign.data.tables.strict import Stop
from jaxalign.data.tables.table import Cell
from jaxalign.errors import DataError

TABLES = {
    "pairs": [
        {"prompt": 'Say "a,\nb"', "chosen": "So.\n", "rejected": "42"},
        {"prompt": "é", "chosen": "1", "rejected": "2"},
    ],
    "ties": [
        {"prompt": "Why?", "chosen": "So.", "rejected": "No.", "tie": True, "margin": 0},
        {"prompt": "How?", "chosen": "So.", "rejected": "No.", "tie": False, "margin": 2.5},
        {"prompt": "How?", "chosen": "So.", "rejected": "No.", "tie": None, "margin": None},
    ],
    "soft": [{"prompt": "Why?", "output_1": "So.", "output_2": "No.", "p2": 0.25}],
    "choice": [{"instruction": "Add.", "input": None, "output_1": "3", "output_2": "4", "label": 2}],
    "joined": [{"prompt_id": "1", "chosen": "So.", "rejected": "No."}],
    "votes": [{"prompt": "Why?", "response1": "So.", "response2": "No.", "ann": 1, "bob": None}],
    "unpaired": [{"prompt": "Why?", "completion": c, "label": x} for c, x in (("So.", True), ("No.", 0.25), ("x", 1))],
}
"""Rows of shapes without lists."""


def written(rows: list[dict], separator: str) -> bytes:
    """As Python's own writer does it, and pandas: values by `str`, nothing for None."""
    text = io.StringIO()
    table = csv.DictWriter(text, rows[0], delimiter=separator)
    table.writeheader()
    table.writerows(rows)
    return text.getvalue().encode()


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.csv.gz"])
@pytest.mark.parametrize("shape", TABLES)
def test_a_table_is_that_of_its_json_lines(shape: str, name: str, tmp_path: pathlib.Path):
    content = written(TABLES[shape], "\t" if ".tsv" in name else ",")
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else b"\xef\xbb\xbf" + content)
    found = read(over(shape, File(str(tmp_path / name))))
    expected = read(over(shape, Inline(tuple(json.dumps(row) for row in TABLES[shape]))))
    assert [nowhere(each) for each in found] == [nowhere(each) for each in expected]


def nowhere(found: Comparison) -> Comparison:
    """The same of no place, which is the file's."""
    return dataclasses.replace(found, place="", prompt=dataclasses.replace(found.prompt, id=""))


@pytest.mark.parametrize("shape", ["pairs", "ties", "soft", "choice", "unpaired"])
def test_columns_are_guessed_as_those_of_json_lines(shape: str, tmp_path: pathlib.Path):
    (tmp_path / "t.csv").write_bytes(written(TABLES[shape], ","))
    table, lines = File(str(tmp_path / "t.csv")), Inline(tuple(json.dumps(row) for row in TABLES[shape]))
    found, expected = (guessed(each, None, None, Stop()) for each in (table, lines))
    assert dataclasses.replace(found, table=lines) == expected


def test_places_are_the_lines_in_which_records_begin(tmp_path: pathlib.Path):
    (tmp_path / "t.csv").write_bytes(b'a,b\r\n"1\n\n2",x\r\n\r\n3,\r\n4,5,6\n')
    rows = list(File(str(tmp_path / "t.csv")).rows())
    assert [row.place.rpartition(":")[2] for row in rows] == ["2", "6", "7"]
    assert [row.values for row in rows[:2]] == [{"a": "1\n\n2", "b": "x"}, {"a": "3", "b": None}]
    assert str(rows[2].values) == " 3 cells under a header of 2"


def test_a_number_that_is_none_is_named_by_its_line_and_column(tmp_path: pathlib.Path):
    (tmp_path / "t.csv").write_bytes(
        b"prompt,chosen,rejected,margin\nWhy?,a,b,1\nWhy?,a,b,much\nWhy?,a,b,nan\nWhy?,a,b,1e999\n"
    )
    with pytest.raises(DataError) as caught:
        read(Pairs(File(str(tmp_path / "t.csv")), margin_field="margin"))
    assert str(caught.value).splitlines()[1:] == [
        f"{tmp_path}/t.csv:3:margin: string where a number belongs",
        f"{tmp_path}/t.csv:4:margin: string where a number belongs",
        f"{tmp_path}/t.csv:5:margin: inf is not a finite number",
    ]


ENDS = {
    "an open quote": (b'a,b\n1,2\n"3,4\n5,6\n', "3: unexpected end of data"),
    "text behind a quote": (b'a,b\n"1"x,2\n', "2: ',' expected after '\"'"),
    "too long": (b"a,b\n1," + b"x" * 2000 + b"\n", "2: no record that ends within 1000 bytes"),
    "too long over lines": (b'a,b\n1,2\n"' + b"x\n" * 900 + b'",2\n', "3: no record that ends within 1000 bytes"),
    "no UTF-8": (b"a,b\n1,\xff\n", "2: not UTF-8: byte 0xff in this record"),
    "no header": (b"\n1,2\n", "1: no header: the first line names the columns"),
    "empty": (b"", "1: no header: the first line names the columns"),
    "a nameless column": (b"a,,b\n1,2,3\n", "1: a column behind the first one has no name"),
    "two nameless columns": (b",a,\n1,2,3\n", "1: a column behind the first one has no name"),
    "as long as may be, and goes on": (
        b"a,b\n" + b'"' + b"x" * 999 + b'\r\ny",1\n',
        "2: no record that ends within 1000 bytes",
    ),
    "a name twice": (b"a,b,a\n1,2,3\n", "1: 'a' names two columns"),
}


@pytest.mark.parametrize("case", ENDS)
def test_what_ends_the_reading_is_named_by_its_line(case: str, tmp_path: pathlib.Path):
    content, expected = ENDS[case]
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(File(str(path), max_line_bytes=1000).rows())
    assert str(caught.value) == f"{path}:{expected}; what follows cannot be read"


def test_a_record_as_long_as_may_be_is_read(tmp_path: pathlib.Path):
    for end in (b"", b"\n", b"\r\n"):
        (tmp_path / "t.csv").write_bytes(b"a,b\n" + b"x" * 998 + b",2" + end)
        (row,) = File(str(tmp_path / "t.csv"), max_line_bytes=1000).rows()
        assert row.values == {"a": "x" * 998, "b": "2"}


def test_rows_numbers_as_pandas_writes_them_are_left_out(tmp_path: pathlib.Path):
    (tmp_path / "t.csv").write_text(",a,b\n0,x,y\n1,z,\n")
    assert [row.values for row in File(str(tmp_path / "t.csv")).rows()] == [{"a": "x", "b": "y"}, {"a": "z", "b": None}]


def test_a_header_of_many_columns_is_read_once(tmp_path: pathlib.Path):
    """Names are told apart in one pass: 40,000 compared with one another would take a minute."""
    names = [f"c{number}" for number in range(40_000)]
    (tmp_path / "t.csv").write_text(",".join(names) + "\n" + ",".join(names) + "\n")
    (row,) = File(str(tmp_path / "t.csv")).rows()
    assert row.values == dict(zip(names, names, strict=True))


def test_conversations_in_cells_are_those_of_json_lines(tmp_path: pathlib.Path):
    asked = [{"role": "user", "content": "Why?"}]
    rows = [
        {
            "prompt": asked,
            "chosen": [*asked, {"role": "assistant", "content": "So."}],
            "rejected": [*asked, {"role": "assistant", "content": "[{"}],
        }
    ]
    (tmp_path / "t.csv").write_bytes(
        written([{name: json.dumps(value) for name, value in row.items()} for row in rows], ",")
    )
    (found,), (expected,) = (
        read(Pairs(File(str(tmp_path / "t.csv")))),
        read(Pairs(Inline(tuple(map(json.dumps, rows))))),
    )
    assert nowhere(found) == nowhere(expected)
    (tmp_path / "t.csv").write_bytes(written(rows, ","))  # as Python, and pandas, write lists
    with pytest.raises(DataError, match=r"t.csv:2:prompt: begins as an array and is no JSON: not JSON"):
        read(Pairs(File(str(tmp_path / "t.csv"))))


@pytest.mark.parametrize("answer", ["[]", "[1]", '[{"name": "Bo"}]', "[{", "[x] done"])
def test_other_arrays_in_cells_are_texts(answer: str, tmp_path: pathlib.Path):
    """Of models that are asked for JSON."""
    rows = [{"prompt": answer, "chosen": answer, "rejected": "No."}]
    (tmp_path / "t.csv").write_bytes(written(rows, ","))
    (found,) = read(Pairs(File(str(tmp_path / "t.csv"))))
    assert found.answers == (answer, "No.")
    assert found.prompt.text == answer


@pytest.mark.parametrize("tools", ["[]", ""])
def test_no_tools_in_a_cell_are_none(tools: str, tmp_path: pathlib.Path):
    (tmp_path / "t.csv").write_text(f"prompt,chosen,rejected,tools\nWhy?,a,b,{tools}\n")
    (found,) = read(Pairs(File(str(tmp_path / "t.csv"))))
    assert not found.prompt.tools


def test_a_choice_is_a_number_or_its_text():
    for label in (Choice("label", 1, 2), Choice("label", "1", "2")):
        assert [label({"label": Cell(cell)}) for cell in ("1", "2")] == [1.0, 0.0]
    assert Choice("label", 1, 2)({"label": Cell("1.0")}) == 1.0, "integers with holes are floats"
    with pytest.raises(RowError, match=r"label: '1.0' is none of '1', '2'"):
        Choice("label", "1", "2")({"label": Cell("1.0")})


@given(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans()))
@settings(max_examples=200, deadline=None)
def test_what_python_writes_is_read_back(value: float):
    assert plain(Cell(str(value))) == value
    assert type(plain(Cell(str(value)))) is type(value)


def test_what_is_no_number_stays_a_text():
    for text in ("1_000", "0x10", "١", "nan", "inf", "1e", "--1", ".", "", "yes"):
        assert plain(Cell(text)) == text
        assert type(plain(Cell(text))) is str
    assert plain(Cell("9" * 5000)) == float("inf")
