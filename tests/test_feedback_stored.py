"""A store's name stands for all that decides what is in it."""

import dataclasses
import datetime
import os
import pathlib

import pytest
from made_prompts import written

from jaxalign.data.comparisons.pairs import Pairs
from jaxalign.data.tables.file import File
from jaxalign.data.tables.strict import Skip
from jaxalign.errors import DataError
from jaxalign.feedback.stored import key, store_of
from jaxalign.models.random_llama import RandomLlama
from jaxalign.models.tabular import TabularPolicy
from jaxalign.text.pairs import Room

CHAT = RandomLlama().open().chat
ROOM = Room(99, 99)
LINE = '{"prompt": "Why?", "chosen": "So.", "rejected": "No."}'


def test_a_store_is_made_once_and_again_when_anything_is_another(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture):
    path = written(tmp_path, LINE)
    source = Pairs(File(str(path)))
    first = store_of(source, CHAT, ROOM, tmp_path / "cache", "pairs")
    assert "pairs: tokenising: 1/1 comparisons" in capsys.readouterr().err
    assert store_of(source, CHAT, ROOM, tmp_path / "cache", "pairs").directory == first.directory
    assert capsys.readouterr().err == ""
    others = [
        key(source, dataclasses.replace(CHAT, template=CHAT.template + " "), ROOM),
        key(source, CHAT.dated(datetime.date(2026, 1, 1)), ROOM),
        key(source, CHAT, Room(99, 98)),
        key(source, CHAT, Room(99, 99, "keep_end")),
        key(dataclasses.replace(source, margin_field="m"), CHAT, ROOM),
    ]
    stamp = path.stat()
    written(tmp_path, LINE.replace("So", "Oh"))
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # same name, size and times
    others.append(key(source, CHAT, ROOM))
    assert len({first.directory.name, *(f"pairs-{each}" for each in others)}) == 7


def test_what_is_skipped_left_out_or_cut_is_told_at_every_launch(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
    path = written(tmp_path, *[LINE] * 8, "{", LINE.replace("So.", "No."), LINE.replace("So.", "So " * 99))
    source = Pairs(File(str(path)), on_bad_row=Skip(0.1))
    for _ in range(2):
        store_of(source, CHAT, Room(99, 99, long_answers="keep_start"), tmp_path / "cache", "pairs")
        assert capsys.readouterr().err.endswith(
            "pairs: 1 of 11 rows skipped as bad ones, 1 left out with twice the same answer, "
            "1 with a long answer that was cut\n"
        )


def test_a_policy_that_reads_no_text_is_refused(tmp_path: pathlib.Path):
    table = TabularPolicy().open().chat
    with pytest.raises(DataError, match="pairs: the policy is a table: it reads no text"):
        store_of(Pairs(File("x.jsonl")), table, ROOM, tmp_path, "pairs")
