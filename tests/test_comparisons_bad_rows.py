"""Bad rows of preference data: each is named by file, line and field, whatever the shape; none crashes."""

import json
import pathlib

import hypothesis
import pytest
from hypothesis import strategies as st
from made_comparisons import SHAPES, over, read, rows, tallied
from made_prompts import written

from jaxalign.data.comparisons.asked import Joined
from jaxalign.data.comparisons.pairs import Pairs
from jaxalign.data.tables.file import File
from jaxalign.data.tables.inline import Inline
from jaxalign.data.tables.strict import Skip
from jaxalign.errors import DataError

GOOD = {
    "pairs": {"prompt": "Why?", "chosen": "So.", "rejected": "No."},
    "ties": {"prompt": "Why?", "chosen": "So.", "rejected": "No.", "tie": True, "margin": 0},
    "soft": {"prompt": "Why?", "output_1": "So.", "output_2": "No.", "p2": 0.25},
    "choice": {"instruction": "Add.", "input": "1, 2", "output_1": "3", "output_2": "4", "label": 1},
    "joined": {"prompt_id": 1, "chosen": "So.", "rejected": "No."},
    "transcripts": {
        "chosen": "\n\nHuman: Why?\n\nAssistant: So.",
        "rejected": "\n\nHuman: Why?\n\nAssistant: No.",
    },
    "ranked": {"prompt": "Why?", "answers": ["So.", "No."], "ratings": [2, 1]},
    "rated": {
        "prompt": "Why?",
        "answers": [{"text": "So.", "meta": {"rating": 2}}, {"text": "No.", "meta": {"rating": 1}}],
    },
    "votes": {"prompt": "Why?", "response1": "So.", "response2": "No.", "ann": 1, "bob": 0},
    "objectives": {"prompt": "Why?", "response1": "So.", "response2": "No.", "helpful": 1.0, "harmless": 0.2},
    "unpaired": {"prompt": "Why?", "completion": "So.", "label": True},
}
"""A row of each shape that nobody minds."""

GONE = object()
ASSISTANT = {"role": "assistant", "content": "So."}
USER = {"role": "user", "content": "Why?"}


def turns(*texts: str) -> str:
    return "".join(f"\n\n{'Human' if number % 2 == 0 else 'Assistant'}: {text}" for number, text in enumerate(texts))


BAD = [
    # lines that are no rows
    ("pairs", '{"prompt": "Why?"', ": not JSON: Expecting ',' delimiter"),
    ("pairs", "", ": blank line"),
    ("pairs", '["Why?"]', ": array where an object belongs"),
    ("pairs", b'{"prompt": "caf\xe9"}', ": not UTF-8: byte 0xe9 in column 16"),
    ("pairs", '{"prompt": "a", "prompt": "b"}', ":prompt: appears twice"),
    ("ties", '{"margin": NaN}', ":margin: NaN is not a finite number"),
    ("ties", '{"margin": 1e999}', ":margin: 1e999 is not a finite number"),
    (
        "ties",
        '{"prompt": "a", "chosen": "b", "rejected": "c", "margin": 1%s}' % ("0" * 400),
        f":margin: 1{'0' * 39} is not a",
    ),
    ("pairs", '{"x": ' + "[" * 100_000 + "]" * 100_000 + "}", ": nested too deeply"),
    ("pairs", "\ufeff{}", ": begins with a byte order mark"),
    # prompts
    ("pairs", {"prompt": GONE}, ": no prompt: none beside chosen and none that it begins with"),
    ("pairs", {"prompt": None}, ": no prompt"),
    ("pairs", {"prompt": ""}, ":prompt: empty"),
    ("pairs", {"prompt": " \n"}, ":prompt: blank"),
    ("pairs", {"prompt": 3}, ":prompt: number where a string belongs"),
    ("pairs", {"prompt": "a\0"}, ":prompt: NUL character at 2"),
    ("pairs", '{"prompt": "a\\ud800", "chosen": "x", "rejected": "y"}', ":prompt: lone surrogate at character 2"),
    ("pairs", {"prompt": []}, ":prompt: empty"),
    ("pairs", {"prompt": [USER, ASSISTANT]}, ":prompt[1].role: the last message is the assistant's"),
    ("pairs", {"prompt": [{"role": "robot", "content": "a"}]}, ":prompt[0].role: 'robot' is none of system"),
    ("pairs", {"prompt": [{"role": "user"}]}, ":prompt[0].content: missing"),
    ("pairs", {"tools": {"a": 1}}, ":tools: object where an array belongs"),
    ("choice", {"instruction": GONE}, ":instruction: missing or null"),
    ("choice", {"instruction": " ", "input": ""}, ":instruction: blank, as the input is"),
    ("choice", {"input": 3}, ":input: number where a string belongs"),
    ("joined", {"prompt_id": 2}, ":prompt_id: '2' names no prompt of inline rows"),
    ("joined", {"prompt_id": GONE}, ":prompt_id: missing or null"),
    ("joined", {"prompt_id": True}, ":prompt_id: boolean where a string belongs"),
    ("joined", {"prompt_id": 1.5}, ":prompt_id: number where a string belongs"),
    # answers
    ("pairs", {"chosen": GONE}, ":chosen: missing or null"),
    ("pairs", {"rejected": None}, ":rejected: missing or null"),
    ("pairs", {"rejected": True}, ":rejected: boolean where a string belongs"),
    ("pairs", {"rejected": {"text": "a"}}, ":rejected: object where a string belongs"),
    ("pairs", {"chosen": "a\0b"}, ":chosen: NUL character at 2"),
    ("pairs", {"chosen": []}, ":chosen: empty"),
    ("pairs", {"chosen": ["So."]}, ":chosen[0]: string where an object belongs"),
    ("pairs", {"chosen": [USER]}, ":chosen[0].role: the last message is the user's; an answer is the assistant's"),
    ("pairs", {"chosen": [USER, {"role": "assistant"}]}, ":chosen[1].content: missing"),
    ("pairs", {"chosen": [USER, {"role": "assistant", "content": 3}]}, ":chosen[1].content: number where a string"),
    ("pairs", {"chosen": [USER, ASSISTANT, ASSISTANT]}, ":chosen[1].role: before the answer stands the assistant's"),
    ("pairs", {"chosen": [USER, ASSISTANT]}, ":rejected: does not begin with a prompt, as others of the row do"),
    (
        "pairs",
        {"prompt": GONE, "chosen": [USER, ASSISTANT], "rejected": [{**USER, "content": "How?"}, ASSISTANT]},
        ":rejected: begins with another prompt than chosen",
    ),
    (
        "pairs",
        {"prompt": "How?", "chosen": [USER, ASSISTANT], "rejected": [USER, ASSISTANT]},
        ":chosen: begins with another prompt than the row's own",
    ),
    # labels
    ("ties", {"tie": 1}, ":tie: number where a boolean belongs"),
    ("ties", {"margin": -1}, ":margin: -1 is not ≥ 0"),
    ("ties", {"margin": "2"}, ":margin: string where a number belongs"),
    ("soft", {"p2": GONE}, ":p2: missing or null"),
    ("soft", {"p2": 1.5}, ":p2: 1.5 is not between 0 and 1"),
    ("soft", {"p2": -0.1}, ":p2: -0.1 is not between 0 and 1"),
    ("soft", {"p2": "0.5"}, ":p2: string where a number belongs"),
    ("soft", {"p2": True}, ":p2: boolean where a number belongs"),
    ("choice", {"label": 3}, ":label: 3 is none of 1, 2, 0"),
    ("choice", {"label": "1"}, ":label: '1' is none of 1, 2, 0"),
    ("choice", {"label": True}, ":label: True is none of 1, 2, 0"),
    ("choice", {"label": None}, ":label: missing or null"),
    ("votes", {"ann": 7}, ":ann: 7 is none of 1, 2, 0"),
    ("votes", {"ann": [1]}, ":ann: [1] is none of 1, 2, 0"),
    ("votes", {"ann": None, "bob": GONE}, ":ann: missing or null, as all votes are"),
    ("votes", {"response2": 3}, ":response2: number where a string belongs"),
    ("objectives", {"harmless": 2}, ":harmless: 2 is not between 0 and 1"),
    ("unpaired", {"label": GONE}, ":label: missing or null"),
    ("unpaired", {"label": "good"}, ":label: string where a number belongs"),
    ("unpaired", {"label": 2}, ":label: 2 is not between 0 and 1"),
    ("unpaired", {"completion": GONE}, ":completion: missing or null"),
    ("unpaired", {"prompt": GONE}, ": no prompt"),
    # transcripts
    ("transcripts", {"chosen": GONE}, ":chosen: missing or null"),
    ("transcripts", {"chosen": ""}, ":chosen: empty"),
    ("transcripts", {"chosen": "Why? So."}, ":chosen: begins with 'Why? So.', not with '\\n\\nHuman:' or"),
    ("transcripts", {"rejected": "So:" + turns("Why?", "No.")}, ":rejected: begins with 'So:'"),
    ("transcripts", {"rejected": turns("Why?")}, ":rejected: ends with a turn of the user"),
    ("transcripts", {"rejected": turns("Why?", " ", "So?", "No.")}, ":rejected: turn 2, of the assistant, is blank"),
    ("transcripts", {"rejected": turns("How?", "No.")}, ":rejected: another conversation than chosen before the last"),
    (
        "transcripts",
        {"chosen": "\n\nAssistant: So.", "rejected": "\n\nAssistant: No."},
        ":chosen: no turn of the user before the last answer",
    ),
    # lists
    ("ranked", {"answers": GONE}, ":answers: missing or null"),
    ("ranked", {"answers": "So."}, ":answers: string where an array belongs"),
    ("ranked", {"answers": []}, ":answers: empty"),
    ("ranked", {"answers": ["So."]}, ":answers: one answer alone"),
    ("ranked", {"answers": ["So.", 3]}, ":answers[1]: number where a string belongs"),
    ("ranked", {"ratings": GONE}, ":ratings: missing or null"),
    ("ranked", {"ratings": [1]}, ":ratings: 1 ratings of 2 answers"),
    ("ranked", {"ratings": [1, None]}, ":ratings[1]: null where a number belongs"),
    ("ranked", {"ratings": [1, "2"]}, ":ratings[1]: string where a number belongs"),
    ("rated", {"answers": ["So.", "No."]}, ":answers[0]: string where an object belongs"),
    ("rated", {"answers": [{"meta": {"rating": 1}}, {}]}, ":answers[0].text: missing or null"),
    ("rated", {"answers": [{"text": "So."}, {"text": "No."}]}, ":answers[0].meta.rating: null where a number belongs"),
]


def line_of(shape: str, change: object) -> str | bytes:
    if isinstance(change, str | bytes):
        return change
    changed = {**GOOD[shape], **change}
    return json.dumps({name: value for name, value in changed.items() if value is not GONE})


def refusal(source: object) -> str:
    with pytest.raises(DataError) as caught:
        read(source)
    str(caught.value).encode()  # it can be printed
    return str(caught.value)


def test_there_are_many_and_of_every_shape():
    assert len(BAD) >= 60
    assert {shape for shape, _, _ in BAD} == set(SHAPES) == set(GOOD)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_good_rows_are_good(shape: str):
    (one,) = rows(shape, GOOD[shape])
    assert one.prompt.text in ("Why?", "Add.\n\n1, 2")
    assert one.answers[0] in ("So.", "3")


@pytest.mark.parametrize(("shape", "change", "expected"), BAD)
def test_a_bad_row_is_named_by_line_and_field(shape: str, change: object, expected: str, tmp_path: pathlib.Path):
    good = line_of(shape, {})
    path = written(tmp_path, good, line_of(shape, change), good)
    message = refusal(over(shape, File(str(path))))
    assert f"{path}:2{expected}" in message
    assert message.startswith(f"{path}: 1 bad rows of 3\n")
    assert len(message) < 800


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["", "assistant"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "text", "meta", "rating"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@hypothesis.settings(deadline=None, max_examples=400)
@hypothesis.given(shape=st.sampled_from(sorted(SHAPES)), place=st.integers(0), value=JSON)
def test_whatever_stands_in_a_field_is_read_or_refused(shape: str, place: int, value: object):
    row = GOOD[shape]
    changed = {**row, sorted(row)[place % len(row)]: value}
    refused = ""
    try:
        assert all(0 <= one.prefer <= 1 for one in rows(shape, changed))
    except DataError as error:
        refused = str(error)
    assert not refused or "inline rows:1:" in refused
    refused.encode()


def test_all_bad_rows_are_reported_up_to_twenty(tmp_path: pathlib.Path):
    path = written(tmp_path, *[line_of("pairs", {"prompt": ""})] * 25, line_of("pairs", {}))
    message = refusal(over("pairs", File(str(path))))
    assert message.startswith(f"{path}: 25 bad rows of 26\n{path}:1:prompt: empty\n")
    assert message.endswith("… and 5 more bad rows")


def test_bad_rows_are_skipped_up_to_a_share(tmp_path: pathlib.Path):
    good, bad = line_of("pairs", {}), line_of("pairs", {"chosen": 3})
    path = written(tmp_path, good, bad, *[good] * 6, bad, good)

    def skipping(share: float) -> Pairs:
        return Pairs(File(str(path)), on_bad_row=Skip(share))

    found, tally = tallied(skipping(0.2))
    assert [one.place for one in found] == [f"{path}:{number}" for number in (1, 3, 4, 5, 6, 7, 8, 10)]
    assert (tally.rows, tally.skipped) == (10, 2)
    assert tally.shown == [f"{path}:{number}:chosen: number where a string belongs" for number in (2, 9)]
    message = refusal(skipping(0.19))
    assert message.startswith(f"{path}: 2 bad rows of 10, more than Skip(share=0.19) allows\n")
    assert list(skipping(1.5).on_bad_row.problems())


def test_bad_prompts_of_another_file_are_named_there(tmp_path: pathlib.Path):
    prompts = written(
        tmp_path,
        '{"prompt_id": 1, "prompt": "Why?"}',
        '{"prompt_id": "1", "prompt": "How?"}',
        '{"prompt_id": 2, "prompt": " "}',
        '{"prompt": "Who?"}',
        name="prompts.jsonl",
    )
    message = refusal(Pairs(Inline((line_of("joined", {}),)), Joined(File(str(prompts)))))
    assert message.splitlines() == [
        f"{prompts}: 3 bad rows of 4",
        f"{prompts}:2:prompt_id: '1' stands at {prompts}:1 too",
        f"{prompts}:3:prompt: blank",
        f"{prompts}:4:prompt_id: missing or null",
    ]
