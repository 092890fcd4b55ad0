"""The prompts of preference data: each once, the same whatever stands beside them, in ranges that never overlap."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from jaxalign.data.comparisons.by_prompt import ByPrompt
from jaxalign.data.comparisons.pairs import Pairs
from jaxalign.data.comparisons.prompts import EXAMPLES, PromptsOf, TablePrompts, prompts_in
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
    for example in EXAMPLES:
        assert isinstance(example, PromptSource)
        assert texts(example, tmp_path / "cache") == ["Why?", "How?"]


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


def test_a_table_of_any_kind_gives_a_prompt_a_row(tmp_path):
    asked = ["Why?", "How,\nthen?", "Why?"]
    (tmp_path / "p.csv").write_text('id,prompt\n1,Why?\n2,"How,\nthen?"\n3,Why?\n')
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in asked))
    pyarrow.parquet.write_table(pyarrow.table({"prompt": asked}), tmp_path / "p.parquet")
    for name in ("p.csv", "p.jsonl", "p.parquet"):
        path = str(tmp_path / name)
        assert texts(TablePrompts(File(path)), tmp_path / "cache") == asked
        assert texts(TablePrompts(File(path), limit=2), tmp_path / "cache") == asked[:2]
        assert [prompt.text for prompt in prompts_in(path)] == asked
    assert [prompt.id for prompt in prompts_in(str(tmp_path / "p.csv"))] == [f"{tmp_path}/p.csv:{n}" for n in (2, 3, 5)]
    (tmp_path / "p.csv").write_text("id,question\n1,Why?\n")
    with pytest.raises(DataError, match=r"p.csv:2:prompt: missing or null"):
        prompts_in(str(tmp_path / "p.csv"))


def test_bad_rows_and_missing_files_are_named(file, tmp_path):
    file.write_text('{"prompt": "Why?", "chosen": "a"}\n')
    with pytest.raises(DataError, match=r"pairs.jsonl:1:rejected"):
        PromptsOf(Pairs(File(str(file)))).open(tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("prompts-*"))
    with pytest.raises(DataError, match=r"gone.jsonl"):
        PromptsOf(Pairs(File(str(tmp_path / "gone.jsonl")))).open(tmp_path / "cache")
