"""Bad rows of prompt files: each is named by line and field, and none costs memory or crashes."""

import json
import pathlib
import time

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from made_prompts import opened, refusal, written

from jaxalign.data import jsonl
from jaxalign.errors import DataError

GOOD = '{"prompt": "Why?"}'
BAD_LINES = {
    "broken": ('{"prompt": "Why?"', "2: not JSON: Expecting ',' delimiter"),
    "two values": ('{"prompt": "a"} {"prompt": "b"}', "2: not JSON: Extra data"),
    "single quotes": ("{'prompt': 'a'}", "2: not JSON: Expecting property name"),
    "control character": ('{"prompt": "a\tb"}', "2: not JSON: Invalid control character"),
    "blank line": ("  ", "2: blank line"),
    "array": ('["Why?"]', "2: array where an object belongs"),
    "string": ('"Why?"', "2: string where an object belongs"),
    "number": ("3", "2: number where an object belongs"),
    "null": ("null", "2: null where an object belongs"),
    "top NaN": ("NaN", "2: number where an object belongs"),
    "NaN": ('{"prompt": "a", "score": NaN}', "2:score: NaN is not a finite number"),
    "infinity": ('{"prompt": "a", "more": {"list": [1, -Infinity]}}', "2:more.list[1]: -Infinity is not"),
    "overflow": ('{"prompt": "a", "score": 1e999}', "2:score: 1e999 is not a finite number"),
    "huge integer": ('{"prompt": "a", "n": ' + "9" * 9999 + "}", "2: an integer of too many digits"),
    "duplicate key": ('{"prompt": "a", "prompt": "b"}', "2:prompt: appears twice"),
    "inner duplicate": ('{"prompt": "a", "meta": {"k": 1, "k": 1}}', "2:k: appears twice"),
    "missing": ('{"text": "a"}', "2:prompt: missing or null; a row needs 'prompt' or 'messages'"),
    "null prompt": ('{"prompt": null}', "2:prompt: missing or null"),
    "empty": ('{"prompt": ""}', "2:prompt: empty"),
    "blank": ('{"prompt": " \\n\\u2003"}', "2:prompt: blank"),
    "number prompt": ('{"prompt": 5}', "2:prompt: number where a string belongs"),
    "boolean prompt": ('{"prompt": true}', "2:prompt: boolean where a string belongs"),
    "list prompt": ('{"prompt": ["a"]}', "2:prompt: array where a string belongs"),
    "surrogate": ('{"prompt": "a\\ud800b"}', "2:prompt: lone surrogate at character 2"),
    "NUL": ('{"prompt": "a\\u0000"}', "2:prompt: NUL character at 2"),
    "not UTF-8": (b'{"prompt": "caf\xe9"}', "2: not UTF-8: byte 0xe9 in column 16"),
    "encoded surrogate": (b'{"prompt": "\xed\xa0\x80"}', "2: not UTF-8: byte 0xed"),
    "too deep": ('{"prompt": "a", "x": ' + "[" * 100_000 + "]" * 100_000 + "}", "2: nested too deeply"),
    "byte order mark": ('\ufeff{"prompt": "a"}', "2: begins with a byte order mark"),
    "both": ('{"prompt": "a", "messages": []}', "2:messages: stands beside 'prompt'"),
    "messages no list": ('{"messages": "hi"}', "2:messages: string where an array belongs"),
    "messages empty": ('{"messages": []}', "2:messages: empty"),
    "message no object": ('{"messages": ["hi"]}', "2:messages[0]: string where an object belongs"),
    "no role": ('{"messages": [{"content": "hi"}]}', "2:messages[0].role: missing"),
    "no content": ('{"messages": [{"role": "user"}]}', "2:messages[0].content: missing"),
    "blank content": ('{"messages": [{"role": "user", "content": " "}]}', "2:messages[0].content: blank"),
    "null content": ('{"messages": [{"role": "user", "content": null}]}', "2:messages[0].content: null where"),
    "odd role": ('{"messages": [{"role": "tool", "content": "hi"}]}', "2:messages[0].role: 'tool' is none of system"),
    "assistant last": (
        '{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}',
        "2:messages[1].role: the last message is the assistant's",
    ),
    "a name": (
        '{"messages": [{"role": "user", "content": "hi", "name": "Bo"}]}',
        "2:messages[0].name: would be left out: only role and content are read",
    ),
    "blank id": ('{"id": "", "prompt": "a"}', "2:id: empty"),
    "boolean id": ('{"id": true, "prompt": "a"}', "2:id: boolean where a string belongs"),
    "surrogate id": ('{"id": "\\udc00", "prompt": "a"}', "2:id: lone surrogate"),
    "duplicate id": ('{"id": "rows.jsonl:1", "prompt": "a"}', "2:id: 'rows.jsonl:1' is the id of line 1 too"),
    "odd key": ('{"prompt": "a", "\\ud800\\n": 1, "\\ud800\\n": 1}', r"2:'\ud800\n': appears twice"),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_row_is_named_by_line_and_field(case: str, tmp_path: pathlib.Path):
    line, expected = BAD_LINES[case]
    message = refusal(written(tmp_path, GOOD, line, GOOD))
    assert f"{tmp_path}/rows.jsonl:{expected}" in message
    assert f"{tmp_path}/rows.jsonl: 1 bad rows of 3" in message
    assert len(message) < 600
    message.encode()  # it can be printed


def test_the_byte_order_mark_that_editors_write(tmp_path: pathlib.Path):
    path = tmp_path / "rows.jsonl"
    path.write_text(GOOD, encoding="utf-8-sig")
    assert "rows.jsonl:1: begins with a byte order mark" in refusal(path)
    path.write_text(GOOD, encoding="utf-16")
    assert "rows.jsonl:1: not UTF-8" in refusal(path)


def test_all_bad_rows_are_reported_up_to_twenty(tmp_path: pathlib.Path):
    message = refusal(written(tmp_path, GOOD, *['{"prompt": ""}'] * 20, GOOD))
    assert [line.split(":")[1] for line in message.splitlines()[1:]] == [str(number) for number in range(2, 22)]
    message = refusal(written(tmp_path, *['{"prompt": ""}', "{"] * 15))
    assert len(message.splitlines()) == 22
    assert message.endswith("… and 10 more bad rows")
    assert "30 bad rows of 30" in message


def test_duplicate_ids_name_both_lines(tmp_path: pathlib.Path):
    message = refusal(written(tmp_path, '{"id": 4, "prompt": "a"}', GOOD, '{"id": "4", "prompt": "b"}'))
    assert "rows.jsonl:3:id: '4' is the id of line 1 too" in message


def test_over_long_lines_are_skipped_without_being_held(tmp_path: pathlib.Path):
    path = written(tmp_path, GOOD, '{"prompt": "' + "x" * 100 + '"}', GOOD, "x" * 500, GOOD)
    message = refusal(path, max_line_bytes=64)
    assert "rows.jsonl:2: line longer than 64 bytes" in message
    assert "rows.jsonl:4: line longer than 64 bytes" in message
    assert "2 bad rows of 5" in message
    exact = written(tmp_path, '{"prompt": "abc"}', '{"prompt": "abcd"}', name="exact.jsonl")
    assert "1 bad rows of 2" in refusal(exact, max_line_bytes=17)
    assert len(opened(exact, max_line_bytes=18)) == 2


class Counted:
    """A binary file that remembers the longest piece anyone asked for."""

    def __init__(self, file):
        self.file, self.longest = file, 0

    def __enter__(self):
        return self

    def __exit__(self, *_: object):
        self.file.close()

    def read(self, size: int) -> bytes:
        return self.file.read(size)

    def seek(self, place: int) -> None:
        self.file.seek(place)

    def readline(self, size: int) -> bytes:
        line = self.file.readline(size)
        self.longest = max(self.longest, len(line))
        return line


def test_a_line_of_64_mb_costs_neither_memory_nor_time(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "rows.jsonl"
    with path.open("wb") as file:
        file.write(b'{"prompt": "')
        file.truncate(64 << 20)
    counted = Counted(path.open("rb"))
    monkeypatch.setattr(pathlib.Path, "open", lambda *_: counted)
    began = time.process_time()
    with pytest.raises(DataError, match=r"rows.jsonl:1: line longer than 1048576 bytes"):
        list(jsonl.read(path, 1 << 20, lambda _, row: row))
    assert counted.longest <= (1 << 20) + 1
    assert time.process_time() - began < 2  # 64 MB from memory take some 0.05 s


def test_empty_missing_and_irregular_files(tmp_path: pathlib.Path):
    assert "rows.jsonl: empty file" in refusal(written(tmp_path))
    assert "gone.jsonl: no such file" in refusal(tmp_path / "gone.jsonl")
    (tmp_path / "folder").mkdir()
    assert "folder: not a regular file" in refusal(tmp_path / "folder")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x1f\x8b\x08\x00rest", "is compressed; gunzip gives"),
        (b"\x28\xb5\x2f\xfdrest", "is compressed; zstd -d gives"),
        (b'[\n {"prompt": "a"},\n {"prompt": "b"}\n]\n', "begins as a JSON array"),
    ],
)
def test_a_file_that_is_none_of_lines_is_one_error(tmp_path: pathlib.Path, content: bytes, words: str):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words) as refused:
        list(jsonl.read(path, 1 << 20, lambda _, row: row))
    assert "bad rows" not in str(refused.value)


def test_blank_lines_at_the_end_are_none(tmp_path: pathlib.Path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"prompt": "a"}\n\n \n')
    assert list(jsonl.read(path, 1 << 20, lambda number, row: (number, row))) == [(1, {"prompt": "a"})]
    path.write_bytes(b'{"prompt": "a"}\n\n{"prompt": "b"}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl:2: blank line"):
        list(jsonl.read(path, 1 << 20, lambda number, row: (number, row)))


@pytest.mark.parametrize("field", ["tool_calls", "reasoning_content", "thinking"])
def test_what_a_message_says_beside_its_content_is_not_left_out(tmp_path: pathlib.Path, field: str):
    message = {"role": "assistant", "content": "a", field: [1]}
    with pytest.raises(jsonl.RowError, match=rf"m\.{field}: would be left out"):
        jsonl.check_message(message, "m")
    assert jsonl.check_message({**message, field: None}, "m") == {"role": "assistant", "content": "a"}


@hypothesis.settings(deadline=None, max_examples=150)
@hypothesis.given(line=st.binary(max_size=40) | st.text(max_size=40).map(lambda text: text.encode("utf-8", "replace")))
def test_no_line_escapes_as_another_exception(line: bytes):
    try:
        row = jsonl.parse_object(line)
    except jsonl.RowError:
        return
    assert isinstance(row, dict)


def test_mutilated_rows_are_refused_or_read_and_never_crash():
    """Every cut and many single-byte changes of a full row."""
    row = json.dumps({"id": "ü", "messages": [{"role": "user", "content": "\ud83d\ude00"}], "n": [1.5, -2, None]})
    content = row.encode()
    generator = np.random.default_rng(0)
    spoilt = [content[:end] for end in range(len(content))]
    for place, byte in zip(
        generator.integers(len(content), size=2000), generator.integers(256, size=2000), strict=True
    ):
        spoilt.append(content[:place] + bytes([byte]) + content[place + 1 :])
    refused = 0
    for line in spoilt:
        try:
            assert isinstance(jsonl.parse_object(line), dict)
        except jsonl.RowError as error:
            refused += 1
            str(error).encode()
    assert refused > 0.5 * len(spoilt)
