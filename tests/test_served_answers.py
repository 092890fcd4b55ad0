"""Answers kept on disk: found again, whole or not at all."""

import json
import threading

import pytest

from jaxalign.errors import CheckpointError, ConfigError
from jaxalign.served.answers import Answers, key_of

ODD = {"text": 'a\n"b" \u2028 \ud800 é', "logprobs": [float("-inf"), None, 1e-300], "nested": {"x": [1, {"y": True}]}}


def file_of(directory):
    (file,) = directory.glob("*.jsonl")
    return file


def test_what_is_put_is_found_now_and_later(tmp_path):
    with Answers(tmp_path / "new" / "answers") as answers:
        assert answers.get("k") is None
        answers.put("k", ODD)
        answers.put("l", {"text": "other"})
        assert answers.get("k") == ODD
    with Answers(tmp_path / "new" / "answers") as again:
        assert (again.get("k"), again.get("l"), again.get("m")) == (ODD, {"text": "other"}, None)
        assert (len(again), again.torn) == (2, 0)


def test_a_launch_that_asks_nothing_leaves_nothing(tmp_path):
    with Answers(tmp_path / "answers") as answers:
        assert len(answers) == 0
    assert not (tmp_path / "answers").exists()


def test_launches_side_by_side_share_a_directory(tmp_path):
    with Answers(tmp_path) as one, Answers(tmp_path) as other:
        one.put("k", {"by": "one"})
        other.put("l", {"by": "other"})
        assert one.get("l") is None  # it looks when it begins
    with Answers(tmp_path) as later:
        assert (later.get("k"), later.get("l")) == ({"by": "one"}, {"by": "other"})
    assert len(list(tmp_path.glob("*.jsonl"))) == 2


def test_threads_do_not_tear_one_anothers_lines(tmp_path):
    with Answers(tmp_path) as answers:

        def write(first: int) -> None:
            for number in range(first, first + 50):
                answers.put(str(number), {"text": "x" * number})

        threads = [threading.Thread(target=write, args=(first,)) for first in range(0, 400, 50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with Answers(tmp_path) as again:
        assert (len(again), again.torn) == (400, 0)
        assert all(again.get(str(number)) == {"text": "x" * number} for number in range(400))


def test_wherever_the_last_line_is_torn_those_before_it_are_found(tmp_path):
    with Answers(tmp_path) as answers:
        answers.put("k", {"text": "one"})
        answers.put("l", {"text": "two"})
    file = file_of(tmp_path)
    whole = file.read_bytes()
    first = whole.index(b"\n") + 1
    for size in range(first, len(whole)):
        file.write_bytes(whole[:size])
        with Answers(tmp_path) as torn:
            assert (torn.get("k"), torn.get("l")) == ({"text": "one"}, None)
            assert torn.torn == (size > first)
            assert len(torn) == 1


def test_wherever_a_byte_is_changed_that_answer_is_asked_again_and_no_other(tmp_path):
    with Answers(tmp_path) as answers:
        answers.put("k", {"text": "one"})
        answers.put("l", {"text": "two"})
    file = file_of(tmp_path)
    whole = file.read_bytes()
    first = whole.index(b"\n")
    for place in range(first):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with Answers(tmp_path) as damaged:
            assert damaged.get("k") in (None, {"text": "one"})  # the key itself may be another one
            assert damaged.get("l") == {"text": "two"}


@pytest.mark.parametrize(
    "line", ["null", "[]", "3", "{}", '{"key": 1, "answer": {}}', '{"key": "k", "answer": 1}', "[" * 100_000, "\xff"]
)
def test_lines_that_are_none_are_counted(tmp_path, line):
    (tmp_path / "strange.jsonl").write_bytes(line.encode("latin-1") + b"\n")
    with Answers(tmp_path) as answers:
        assert (len(answers), answers.torn) == (0, 1)


def test_a_file_that_goes_while_it_is_read_from_is_missed_by_its_answers_alone(tmp_path):
    with Answers(tmp_path) as answers:
        answers.put("k", {"text": "one"})
    with Answers(tmp_path) as answers:
        answers.put("l", {"text": "two"})
        for file in tmp_path.glob("*.jsonl"):
            if '"one"' in file.read_text():
                file.unlink()
        assert (answers.get("k"), answers.get("l")) == (None, {"text": "two"})
        assert answers.torn == 1


def test_a_full_disk_is_named_and_what_was_kept_is_kept(small_disk):
    with Answers(small_disk) as answers:
        answers.put("k", {"text": "one"})
        with pytest.raises(CheckpointError, match="no space left on the disk"):
            answers.put("l", {"text": "x" * 4_000_000})
        answers.put("m", {"text": "three"})
    with Answers(small_disk) as again:
        assert [again.get(key) for key in "klm"] == [{"text": "one"}, None, {"text": "three"}]


def test_a_directory_that_is_none_is_refused(tmp_path):
    (tmp_path / "answers").mkdir()
    (tmp_path / "answers" / "x.jsonl").mkdir()
    with pytest.raises(ConfigError, match="answers cannot be read: Is a directory"):
        Answers(tmp_path / "answers")


def test_keys_are_of_the_content_alone():
    assert key_of("/x", {"a": 1, "b": [2.0]}, "") == key_of("/x", {"b": [2.0], "a": 1}, "")
    different = [
        ("/x", {"a": 1}, ""),
        ("/y", {"a": 1}, ""),
        ("/x", {"a": 2}, ""),
        ("/x", {"a": 1}, "p"),
        ("/x", {}, ""),
    ]
    assert len({key_of(*each) for each in different}) == len(different)
    assert key_of("x") == key_of(*json.loads('["x"]'))
    assert key_of("\ud800")
