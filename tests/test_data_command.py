"""`jaxalign data`: the shape is guessed, and what is counted is what is there."""

import json
import math
import pathlib

import numpy as np
import pytest
from made_comparisons import SHAPES, SHARED, read, rows
from made_gguf import MODELS, model_fields, write_vocabulary
from made_prompts import written

from jaxalign.__main__ import main
from jaxalign.data.comparisons.asked import Field, Instruction, Joined
from jaxalign.data.comparisons.guess import guessed
from jaxalign.data.comparisons.labels import Choice, First, Soft
from jaxalign.data.comparisons.pairs import Pairs
from jaxalign.data.comparisons.ranked import Ranked
from jaxalign.data.comparisons.rated import Rated
from jaxalign.data.comparisons.summary import Columns, share, summarise
from jaxalign.data.comparisons.transcripts import Transcripts
from jaxalign.data.comparisons.unpaired import Unpaired
from jaxalign.data.comparisons.votes import Votes
from jaxalign.data.tables.inline import Inline
from jaxalign.data.tables.strict import Stop
from jaxalign.errors import DataError
from jaxalign.models.random_llama import RandomLlama

SAID = "\n\nHuman: a\n\nAssistant: b"
PROMPTS = Inline(('{"prompt_id": 1, "prompt": "Why?"}',))
GUESSES = [
    ({"prompt": "a", "chosen": "b", "rejected": "c"}, lambda table: Pairs(table)),
    ({"chosen": SAID, "rejected": SAID}, lambda table: Transcripts(table)),
    (
        {"prompt_id": 1, "output_1": "b", "output_2": "c", "p2": 0.5},
        lambda table: Pairs(table, Joined(PROMPTS), ("output_1", "output_2"), Soft("p2", "second")),
    ),
    (
        {"input": "a", "output_1": "b", "output_2": "c", "label": 2},
        lambda table: Pairs(table, Field("input"), ("output_1", "output_2"), Choice("label", tie=0)),
    ),
    (
        {"question": "a", "response_a": "b", "response_b": "c", "winner": "model_b"},
        lambda table: Pairs(
            table, Field("question"), ("response_a", "response_b"), Choice("winner", "model_a", "model_b", "tie")
        ),
    ),
    (
        {"instruction": "a", "input": "", "response1": "b", "response2": "c", "annotator1": 1, "annotator2": 0},
        lambda table: Votes(table, tuple(Choice(f"annotator{n}", tie=0) for n in (1, 2)), Instruction()),
    ),
    (
        {"prompt": "a", "chosen": "b", "rejected": "c", "tie": False, "margin": 2},
        lambda table: Pairs(table, label=First("tie"), margin_field="margin"),
    ),
    ({"prompt": "a", "answers": ["b", "c"]}, lambda table: Ranked(table)),
    (
        {"prompt": "a", "answers": ["b", "c"], "ranks": [2, 1]},
        lambda table: Ranked(table, rating_field="ranks", best="lowest"),
    ),
    (
        {"prompt": "a", "completions": [{"response": "b", "score": 1}, {"response": "c", "score": 2}]},
        lambda table: Ranked(table, answers_field="completions", text_field="response", rating_field="score"),
    ),
    ({"prompt": "a", "completion": "b", "label": True}, lambda table: Unpaired(table)),
    (
        {"prompt": "a", "completion": "b", "label": True, "rating": 2},
        lambda table: Unpaired(table, rating_field="rating"),
    ),
    ({"prompt": "a", "response": "b", "score": 2}, lambda table: Rated(table, Field(), "response", "score")),
]


@pytest.mark.parametrize(("row", "expected"), GUESSES)
def test_a_shape_is_guessed_from_its_columns(row: dict, expected):
    table = Inline((json.dumps(row), "{}"))
    found = guessed(table, None, PROMPTS, Stop())
    assert found == expected(table)
    assert read(type(found)(**{**vars(found), "table": Inline((json.dumps(row),))}))


@pytest.mark.parametrize(("first", "second"), [("model_a", "model_b"), ("a", "b"), ("A", "B"), ("1", "2")])
def test_ties_ahead_of_others_do_not_tell_how_answers_are_called(first: str, second: str):
    said = [
        {"prompt": "a", "response_a": "b", "response_b": "c", "winner": who} for who in ("tie", None, "tie", second)
    ]
    table = Inline(tuple(map(json.dumps, said)))
    found = guessed(table, None, None, Stop())
    assert isinstance(found, Pairs)
    assert found.label == Choice("winner", first, second, "tie")
    ties = guessed(Inline(tuple(map(json.dumps, said[:1]))), None, None, Stop())
    assert isinstance(ties, Pairs)
    assert [each.prefer for each in read(ties)] == [0.5]


def test_what_cannot_be_guessed_is_said():
    with pytest.raises(DataError, match=r"its columns 'a', 'b' do not tell a shape \(transcripts, votes, pairs"):
        guessed(Inline(('{"a": 1, "b": 2}',)), None, None, Stop())
    with pytest.raises(DataError, match="do not tell what is what for the shape votes"):
        guessed(Inline(('{"prompt": "a", "chosen": "b", "rejected": "c"}',)), "votes", None, Stop())
    with pytest.raises(DataError, match="no rows"):
        guessed(Inline(()), None, None, Stop())


def test_first_rows_that_cannot_be_read_are_named_with_the_reason():
    with pytest.raises(DataError) as caught:
        guessed(Inline(("\ufeff{}", "3", '{"a": NaN}')), None, None, Stop())
    said = str(caught.value)
    assert "3 bad rows of 3 looked at" in said
    assert "byte order mark" in said
    assert "number where an object belongs" in said


def measure(texts: list[str]) -> list[int]:
    return list(map(len, texts))


def soft(*lines: tuple[str, str, str, float]) -> Pairs:
    said = [dict(zip(("prompt", "output_1", "output_2", "p2"), line, strict=True)) for line in lines]
    return Pairs(Inline(tuple(map(json.dumps, said))), answers=("output_1", "output_2"), label=Soft("p2", "second"))


def test_a_summary_counted_by_hand():
    """Seven pairs of three prompts: the second wins twice, the longer one always but once, one says the contrary."""
    source = soft(
        ("p", "a", "bb", 0.9),  # second, longer
        ("p", "bb", "a", 0.8),  # second, shorter: the contrary of the row before
        ("p", "a", "bb", 1.0),  # again
        ("q", "ccc", "d", 0.0),  # first, longer
        ("q", "e", "e", 0.5),  # equal answers, a tie
        ("rr", "", "f", 0.55),  # one says nothing
        ("rr", "gg", "h", 0.3),  # first, longer
    )
    summary = summarise(source, measure, soft(("q", "d", "ccc", 1.0), ("p", "x", "y", 1.0)))
    assert summary["rows"] == {"read": 7, "skipped": 0, "reasons": []}
    assert (summary["comparisons"], summary["pairs"], summary["prompts"]["distinct"]) == (7, 7, 3)
    assert summary["lengths"]["prompt"]["max"] == 2
    assert summary["lengths"]["chosen"]["mean"] == pytest.approx((2 + 1 + 2 + 3 + 1 + 1 + 2) / 7)
    assert summary["lengths"]["rejected"]["min"] == 0
    assert summary["labels"] == {
        "ties": 1,
        "certain": 2,
        "prefer": {"tie": 1, "to 0.6": 1, "to 0.7": 1, "to 0.8": 1, "to 0.9": 1, "to 1": 2},
    }
    assert (summary["bias"]["first_wins"]["share"], summary["bias"]["first_wins"]["of"]) == (pytest.approx(2 / 6), 6)
    assert (summary["bias"]["longer_wins"]["share"], summary["bias"]["longer_wins"]["of"]) == (pytest.approx(5 / 6), 6)
    assert summary["repeated"] == {"duplicates": 2, "contradictory": 3, "equal_answers": 1, "blank_answers": 1}
    assert summary["heldout"] == {"comparisons": 2, "train_prompts_there": 5, "train_comparisons_there": 1}
    assert "votes" not in summary


def test_a_lone_answer_that_is_good_and_bad_is_contradictory():
    """To one prompt an answer that is said to be both, and one that is good twice; the first to another prompt."""
    said = [("a", "b", True), ("a", "b", False), ("a", "c", True), ("a", "c", True), ("d", "b", False)]
    rows = [dict(zip(("prompt", "completion", "label"), each, strict=True)) for each in said]
    summary = summarise(Unpaired(Inline(tuple(map(json.dumps, rows)))), measure)
    assert summary["repeated"] == {"duplicates": 2, "contradictory": 2, "equal_answers": 0, "blank_answers": 0}


def test_votes_counted_by_hand():
    row = {"prompt": "Why?", "response1": "a", "response2": "b"}
    found = [{**row, "ann": 1, "bob": 1}, {**row, "ann": 2, "bob": 0}, {**row, "bob": 2}, {**row, "ann": 2, "bob": 2}]
    source = Votes(Inline(tuple(map(json.dumps, found))), tuple(Choice(name, tie=0) for name in ("ann", "bob")))
    assert summarise(source, measure)["votes"] == {
        "each": [
            {"first": 1, "second": 2, "tie": 0, "absent": 1},
            {"first": 1, "second": 2, "tie": 1, "absent": 0},
        ],
        "voted_on_by_several": 3,
        "unanimous": 2,
        "two_agree": pytest.approx(2 / 3),
    }


@pytest.mark.parametrize("shape", ["unpaired", "ranked", "pairs"])
def test_other_shapes_have_summaries(shape: str):
    row = {"prompt": "a", "completion": "b", "label": True, "chosen": "b", "rejected": "c"}
    row |= {"answers": ["b", "c", "d"], "ratings": [3, 2, 2]}
    source = type(SHAPES[shape])(**{**vars(SHAPES[shape]), "table": Inline((json.dumps(row),) * 2)})
    summary = summarise(source, measure)
    assert json.loads(json.dumps(summary)) == summary
    if shape == "unpaired":
        assert summary["labels"]["desirable"]["share"] == 1
    if shape == "ranked":
        assert (summary["labels"]["ties"], summary["margins"]["max"]) == (2, 1)
    if shape == "pairs":
        assert summary["bias"]["first_wins"] is None


def test_the_interval_is_wider_where_pairs_share_a_prompt():
    """Of independent pairs it is the textbook's; of prompts that say one thing ten times, that of a tenth of them."""
    random = np.random.default_rng(0)
    values = random.random(1000) < 0.6
    alone = share(values, np.arange(1000))
    width = 1.96 * math.sqrt(alone["share"] * (1 - alone["share"]) / 999)
    assert alone["ci95_high"] - alone["share"] == pytest.approx(width)
    ten = share(np.repeat(values, 10), np.repeat(np.arange(1000), 10))
    assert (ten["share"], ten["ci95_high"]) == (alone["share"], pytest.approx(alone["ci95_high"]))
    assert share(values[:0], np.arange(0)) is None
    assert share(values, np.zeros(1000, int)) == {**alone, "ci95_low": 0.0, "ci95_high": 1.0}, "one prompt says nothing"


def test_columns_hold_numbers_alone():
    columns = Columns(rows("pairs", {"prompt": "a", "chosen": "bb", "rejected": ""}), measure)
    assert (columns["chosen"].tolist(), columns["rejected"].tolist(), columns["blank"].tolist()) == ([2], [0], [1])


def test_the_command_prints_what_it_took(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
    good = '{"q": "Why?", "output_a": "So.", "output_b": "No.", "p": 0.75}'
    path = written(tmp_path, *[good] * 3, '{"q": ""}')
    taken = ["--shape", "pairs", "--prompt.field", "q", "--answers", "chosen,rejected"]
    renamed = written(tmp_path, '{"q": "Why?", "chosen": "So.", "rejected": "No."}', name="named.jsonl")
    assert main(["data", str(renamed), *taken, "--json", "--heldout", str(renamed)]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["source"]["prompt"] == {
        "type": "jaxalign.data.comparisons.asked:Field",
        "field": "q",
        "tools_field": "tools",
    }
    assert summary["heldout"]["train_comparisons_there"] == 1
    assert main(["data", str(renamed), *taken]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("read as Pairs(table=File(path=")
    assert "the longer one wins" in shown
    assert main(["data", str(path)]) == 3
    assert "its columns 'q', 'output_a', 'output_b', 'p' do not tell a shape" in capsys.readouterr().err
    assert main(["data", str(renamed), "--shape", "heap"]) == 2
    assert "--shape must be one of transcripts" in capsys.readouterr().err
    assert main(["data", str(renamed), *taken, "--skip", "2"]) == 2


def test_pairs_under_any_names_are_read_when_options_say_them(tmp_path, capsys):
    path = str(written(tmp_path, '{"q": "Why?", "left": "So.", "right": "No."}'))
    named = ("--prompt.field", "q", "--answers", "left,right")
    assert main(["data", path, "--shape", "pairs", *named, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["source"]["answers"] == ["left", "right"]
    assert main(["data", path, "--shape", "pairs", "--skip", "0"]) == 3
    assert ":1:chosen: missing or null" in capsys.readouterr().err
    assert main(["data", path, *named]) == 3
    assert "do not tell a shape" in capsys.readouterr().err


def test_prompts_that_no_row_looks_up_are_refused(tmp_path, capsys):
    path = str(written(tmp_path, '{"prompt": "Why?", "chosen": "So.", "rejected": "No."}'))
    named = str(written(tmp_path, '{"prompt_id": 1, "chosen": "So.", "rejected": "No."}', name="named.jsonl"))
    prompts = str(written(tmp_path, '{"prompt_id": 1, "prompt": "Why?"}', name="prompts.jsonl"))
    assert main(["data", path, "--prompts", prompts]) == 2
    assert "names a prompt that would be looked up there (by a column prompt_id, query_id or" in capsys.readouterr().err
    assert main(["data", named, "--prompts", prompts]) == 0
    assert main(["data", path, "--prompts", prompts, "--heldout", named]) == 0


def test_margins_that_are_asked_for_and_not_there_are_told(tmp_path, capsys):
    path = str(written(tmp_path, '{"prompt": "Why?", "chosen": "So.", "rejected": "No.", "by": 2}'))
    for field, told in (("by", {"min": 2.0}), ("gap", {})):
        assert main(["data", path, "--margin_field", field, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["margins"].items() >= told.items()
    assert main(["data", path, "--margin_field", "gap"]) == 0
    assert "margins\n  margin  none\n" in capsys.readouterr().out
    assert main(["data", path, "--json"]) == 0
    assert "margins" not in json.loads(capsys.readouterr().out)


def test_lengths_are_counted_in_tokens(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
    """A token a byte, but for one of two letters that the GGUF file's tokenizer has; and no template is needed."""
    path = written(tmp_path, '{"prompt": "Why?", "chosen": "qq, so.", "rejected": "Nö"}')
    (tmp_path / "base").mkdir()
    RandomLlama().open().chat.tokenizer.save(str(tmp_path / "base" / "tokenizer.json"))
    write_vocabulary(tmp_path / "v.gguf", {**model_fields(MODELS[False]), "tokenizer.chat_template": None})
    for place, chosen in (("base", 7), ("v.gguf", 6)):
        assert main(["data", str(path), "--tokenizer", str(tmp_path / place), "--json"]) == 0
        summary = json.loads(capsys.readouterr().out)
        lengths = {name: found["max"] for name, found in summary["lengths"].items()}
        assert (summary["unit"], lengths) == ("tokens", {"prompt": 4, "chosen": chosen, "rejected": 3})
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "tokenizer.json").write_text("{}")
    for place, says in (("absent", "tokenizer.json"), ("absent.gguf", "no such file"), ("broken", "not a tokenizer")):
        assert main(["data", str(path), "--tokenizer", str(tmp_path / place)]) == 4
        assert says in capsys.readouterr().err


def test_bad_rows_are_skipped_up_to_a_share(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
    good = '{"prompt": "Why?", "chosen": "So.", "rejected": "No."}'
    path = written(tmp_path, *[good] * 9, '{"prompt": ""}')
    assert main(["data", str(path)]) == 3
    assert "1 bad rows of 10, more than Skip(share=0.01) allows" in capsys.readouterr().err
    assert main(["data", str(path), "--skip", "0.1"]) == 0
    assert f"{path}:10:prompt: empty" in capsys.readouterr().out
    assert main(["data", str(path), "--skip", "0"]) == 3


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the public data sets are not in {SHARED}")
def test_real_files_are_recognised(capsys: pytest.CaptureFixture[str]):
    tldr = SHARED / "discopop-tldr"
    files = {
        "Transcripts": [str(SHARED / "hh-rlhf" / "harmless-base.test.jsonl.gz")],
        "Votes": [str(SHARED / "pandalm" / "testset-v1.json")],
        "Pairs": [str(SHARED / "llmbar" / "*.json")],
        "Joined": [str(tldr / "pairs.jsonl.gz"), "--prompts", str(tldr / "prompts.jsonl.gz"), "--limit", "500"],
    }
    for name, arguments in files.items():
        assert main(["data", *arguments]) == 0
        assert f"{name}(" in capsys.readouterr().out.partition("\n")[0]
