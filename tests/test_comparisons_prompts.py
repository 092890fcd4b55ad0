"""The prompts of preference data: each once, the same whatever stands beside them, in ranges that never overlap."""

import json

import pytest

from jaxalign.data.comparisons.by_prompt import ByPrompt
from jaxalign.data.comparisons.pairs import Pairs
from jaxalign.data.comparisons.prompts import EXAMPLE, PromptsOf
from jaxalign.data.prompts import PromptSource
from jaxalign.data.tables.file import File
from jaxalign.errors import DataError


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"Question {index % 20}?", "chosen": f"a{index}", "rejected": "no"} for index in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def texts(source, cache) -> list[str]:
    opened = source.open(cache)
    return [opened[index].text for index in range(len(opened))]


def test_it_is_a_source_of_prompts(tmp_path):
    assert isinstance(EXAMPLE, PromptSource)
    assert texts(EXAMPLE, tmp_path / "cache") == ["Why?", "How?"]


def test_each_prompt_comes_once_in_the_order_of_the_file(file, tmp_path):
    source = PromptsOf(Pairs(File(str(file))))
    assert texts(source, tmp_path / "cache") == [f"Question {index}?" for index in range(20)]
    assert texts(PromptsOf(source.comparisons, limit=3), tmp_path / "cache") == [f"Question {i}?" for i in range(3)]


def test_ranges_share_the_prompts_among_them(file, tmp_path):
    both = [PromptsOf(ByPrompt(Pairs(File(str(file))), *ends)) for ends in ((0.0, 0.5), (0.5, 1.0))]
    first, second = (set(texts(source, tmp_path / "cache")) for source in both)
    assert not first & second
    assert len(first | second) == 20


def test_another_content_is_converted_anew(file, tmp_path):
    source = PromptsOf(Pairs(File(str(file))))
    before = source.open(tmp_path / "cache")
    assert source.open(tmp_path / "cache").fingerprint == before.fingerprint
    assert before.source == str(file)
    file.write_text(json.dumps({"prompt": "Else?", "chosen": "a", "rejected": "b"}) + "\n")
    assert texts(source, tmp_path / "cache") == ["Else?"]


def test_bad_rows_and_missing_files_are_named(file, tmp_path):
    file.write_text('{"prompt": "Why?", "chosen": "a"}\n')
    with pytest.raises(DataError, match=r"pairs.jsonl:1:rejected"):
        PromptsOf(Pairs(File(str(file)))).open(tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("prompts-*"))
    with pytest.raises(DataError, match=r"gone.jsonl"):
        PromptsOf(Pairs(File(str(tmp_path / "gone.jsonl")))).open(tmp_path / "cache")
