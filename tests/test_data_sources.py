"""Prompt sources: what is written is what is read, ids, fields and fingerprints."""

import dataclasses
import json
import os
import pathlib
import socket
import sys

import hypothesis
import jax
import pytest
import tensorflow_datasets as tfds
from hypothesis import strategies as st
from made_prompts import contents, inline, opened, written

from jaxalign.data import jsonl, tfds_store
from jaxalign.data.prompts import BuiltinPrompts, InlinePrompts, JsonlPrompts, PromptSource, TfdsPrompts
from jaxalign.errors import DataError
from jaxalign.mesh.sharding import MeshShape
from jaxalign.models.random_llama import RandomLlama
from jaxalign.rollouts.sample import Sample
from jaxalign.rollouts.seam import rolled
from jaxalign.types import Prompt

TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1).filter(str.strip)
CONVERSATION = st.lists(st.tuples(st.sampled_from(jsonl.ROLES), TEXT), max_size=3)


@hypothesis.settings(deadline=None, max_examples=12)
@hypothesis.given(rows=st.lists(st.tuples(CONVERSATION, TEXT), min_size=1, max_size=6), escape=st.booleans())
def test_what_is_written_is_what_is_read(tmp_path_factory: pytest.TempPathFactory, rows, escape: bool):
    """JSONL → ArrayRecord → Prompt keeps every character, escaped or not, U+2028 included."""
    folder = tmp_path_factory.mktemp("rows")
    conversations = [[*before, ("user", last)] for before, last in rows]
    lines = [{"messages": [{"role": role, "content": text} for role, text in turns]} for turns in conversations]
    prompts = opened(written(folder, *(json.dumps(line, ensure_ascii=escape) for line in lines)))
    assert [prompt.messages for prompt in contents(prompts)] == [tuple(line["messages"]) for line in lines]
    assert [prompt.text for prompt in contents(prompts)] == [last for _, last in rows]


def test_a_prompt_is_a_conversation_of_one(tmp_path: pathlib.Path):
    one = opened(written(tmp_path, '{"id": "a", "prompt": "Why?"}', name="one.jsonl"))
    two = opened(written(tmp_path, '{"id": "a", "messages": [{"role": "user", "content": "Why?"}]}', name="two.jsonl"))
    assert one[0] == two[0] == Prompt("a", ({"role": "user", "content": "Why?"},))
    assert one.fingerprint == two.fingerprint


def test_tools_travel_to_the_template(tmp_path: pathlib.Path):
    tools = [{"type": "function", "function": {"name": "search", "parameters": {"q": {"type": "string"}}}}]
    rows = ({"id": "a", "prompt": "Why?", "tools": tools}, {"id": "b", "prompt": "Why?", "tools": []})
    prompts = opened(written(tmp_path, *map(json.dumps, rows)))
    assert [prompt.tool_list for prompt in contents(prompts)] == [tools, None]
    template = "{{ messages[0].content }}{% if tools %}{{ tools[0].function.name }}{% endif %}"
    model = RandomLlama().open()
    model = dataclasses.replace(model, chat=dataclasses.replace(model.chat, template=template))
    roller = Sample(samples=1, max_tokens=1).on(model, MeshShape(data=1, fsdp=1).build(jax.devices()[:1]))
    asked = rolled(roller, model.load(), contents(prompts), jax.random.key(0))
    rows = zip(asked.prompt_tokens.tolist(), asked.prompt_lengths, strict=True)
    assert [model.chat.decode(row[:length]) for row, length in rows] == ["Why?search", "Why?"]


@pytest.mark.parametrize(("tools", "names"), [('{"a": 1}', "tools: object"), ("[3]", r"tools\[0\]: number")])
def test_tools_that_are_none_are_named(tmp_path: pathlib.Path, tools: str, names: str):
    with pytest.raises(DataError, match=names):
        opened(written(tmp_path, f'{{"prompt": "Why?", "tools": {tools}}}'))


def test_the_plain_file_and_its_tfds_copy_are_one_dataset(tmp_path: pathlib.Path):
    """What the cache holds is a TFDS dataset like any other: TFDS itself opens it."""
    opened(written(tmp_path, '{"id": "a", "prompt": "Why?"}', '{"id": "b", "prompt": "How?"}'))
    (directory,) = (tmp_path / "cache").iterdir()
    source = tfds.builder_from_directory(directory).as_data_source(tfds_store.SPLIT)
    assert [record["id"] for record in source] == [b"a", b"b"]
    assert any("array_record" in file.name for file in directory.iterdir())


def test_limit_keeps_the_first_and_shares_the_copy(tmp_path: pathlib.Path):
    path = written(tmp_path, *(json.dumps({"prompt": f"Question {number}?"}) for number in range(9)))
    assert contents(opened(path, limit=4)) == contents(opened(path))[:4]
    assert len(opened(path, limit=99)) == 9
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert opened(path, limit=4).fingerprint != opened(path).fingerprint


def test_fingerprint_sees_ids_contents_and_order(tmp_path: pathlib.Path):
    base = [{"id": "a", "prompt": "Why?"}, {"id": "b", "prompt": "How?"}]
    variants = [
        base,
        base[::-1],
        [{"id": "a", "prompt": "Why!"}, base[1]],
        [{"id": "c", "prompt": "Why?"}, base[1]],
        base[:1],
        [{"id": "a", "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]}],
    ]
    prints = {opened(written(tmp_path, *map(json.dumps, rows))).fingerprint for rows in variants}
    assert len(prints) == len(variants)
    assert opened(written(tmp_path, *map(json.dumps, base))).fingerprint in prints, "it depends on nothing else"


def test_a_changed_file_gets_a_copy_of_its_own(tmp_path: pathlib.Path):
    path = written(tmp_path, '{"prompt": "old"}')
    stamp = path.stat()
    assert opened(path)[0].text == "old"
    written(tmp_path, '{"prompt": "new"}')
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # same name, size and times
    assert opened(path)[0].text == "new"
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_ids(tmp_path: pathlib.Path):
    path = written(tmp_path, '{"prompt": "a"}', '{"prompt": "b", "id": 7}', '{"prompt": "c", "id": "x"}')
    assert [prompt.id for prompt in contents(opened(path))] == ["rows.jsonl:1", "7", "x"]


def test_fields_can_be_renamed_and_switched_off(tmp_path: pathlib.Path):
    path = written(
        tmp_path, '{"question": "Why?", "prompt": 3, "extra": [1, {"a": null}], "messages": [{"no": "role"}]}'
    )
    assert opened(path, text_field="question", messages_field="")[0].text == "Why?"
    assert "rows.jsonl:1:messages: stands beside 'question'" in refusal_of_new(path, text_field="question")


def refusal_of_new(path: pathlib.Path, **options: object) -> str:
    """The refusal under options that have no copy yet, beside one that other options left."""
    with pytest.raises(DataError) as caught:
        opened(path, **options)
    return str(caught.value)


def test_line_ends(tmp_path: pathlib.Path):
    """LF ends a line, CR before it is white space, and the separators that str.splitlines knows are text."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"prompt": "a\u2028b\u0085c"}\r\n{"prompt": "last, without an end"}'.encode())
    assert [prompt.text for prompt in contents(opened(path))] == ["a\u2028b\u0085c", "last, without an end"]


def test_no_network_and_no_tensorflow(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert len(BuiltinPrompts("heldout").open(tmp_path)) >= 110
    assert "tensorflow" not in sys.modules


def test_sources_say_what_is_wrong_with_their_settings():
    assert list(JsonlPrompts("x", limit=0, max_line_bytes=0, text_field="", messages_field="").problems()) == [
        "limit must be at least 1, or None for all prompts, got 0",
        "max_line_bytes must be at least 1, got 0",
        "text_field and messages_field are both empty",
    ]
    for source in (JsonlPrompts("x"), BuiltinPrompts(), TfdsPrompts("x", limit=1), InlinePrompts(("a",))):
        assert isinstance(source, PromptSource)
        assert hash(source) == hash(dataclasses.replace(source))
    assert list(BuiltinPrompts(limit=-1).problems())
    assert list(TfdsPrompts("x", limit=-1).problems())


def test_inline_prompts():
    prompts = inline(3)
    assert [prompt.id for prompt in contents(prompts)] == ["inline-0", "inline-1", "inline-2"]
    with pytest.raises(IndexError):
        prompts[3]
    with pytest.raises(IndexError):
        prompts[-1]
    with pytest.raises(DataError, match=r"texts\[1\]: blank"):
        InlinePrompts(("a", " ")).open(pathlib.Path("unused"))
    with pytest.raises(DataError, match="no prompts"):
        InlinePrompts(()).open(pathlib.Path("unused"))
