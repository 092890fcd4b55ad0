"""Tokenizers rebuilt from GGUF metadata give the ids that transformers gives; see goldens/make_chats.py."""

import json
import pathlib

import gguf
import pytest
import tokenizers

from jaxalign.errors import ModelError
from jaxalign.formats.gguf import GgufFile
from jaxalign.text import gguf_tokenizer

CHATS = json.loads((pathlib.Path(__file__).parent / "goldens" / "chats.json").read_text(encoding="utf-8"))
CONTROL, NORMAL, UNKNOWN, BYTE = 3, 1, 2, 6


def fields_of(family: str) -> dict:
    """What llama.cpp's converter writes of a family's tokenizer."""
    made = CHATS[family]
    model = made["tokenizer"]["model"]
    special = {entry["content"] for entry in made["tokenizer"]["added_tokens"]}
    tokens = sorted(model["vocab"], key=lambda token: model["vocab"][token])
    merges = [tuple(pair) for pair in model["merges"]]
    kinds = [
        UNKNOWN
        if token == "<unk>"
        else CONTROL
        if token in special
        else BYTE
        if token.startswith("<0x") and not isinstance(made["kind"], str)
        else NORMAL
        for token in tokens
    ]
    fields = {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.eos_token_id": model["vocab"][made["specials"]["eos_token"]],
    }
    if isinstance(made["kind"], str):
        merged = [f"{left} {right}" for left, right in merges]
        named = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": made["kind"], "tokenizer.ggml.merges": merged}
        return {**fields, **named}
    rank = {left + right: number for number, (left, right) in reversed(list(enumerate(merges)))}
    scores = [-float(rank.get(token, len(merges))) for token in tokens]
    prefix = {"tokenizer.ggml.add_space_prefix": made["kind"]}
    return {**fields, "tokenizer.ggml.model": "llama", "tokenizer.ggml.scores": scores, **prefix}


def write(path: pathlib.Path, fields: dict) -> GgufFile:
    writer = gguf.GGUFWriter(path, "llama")
    kinds = {bool: writer.add_bool, int: writer.add_uint32, str: writer.add_string}
    for name, value in fields.items():
        kinds.get(type(value), writer.add_array)(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return GgufFile(path)


@pytest.mark.parametrize("family", sorted(CHATS))
def test_ids_are_those_of_transformers(tmp_path, family):
    found = gguf_tokenizer.read(write(tmp_path / "m.gguf", fields_of(family))).tokenizer
    theirs = tokenizers.Tokenizer.from_str(json.dumps(CHATS[family]["tokenizer"]))
    for golden in CHATS[family]["conversations"].values():
        assert found.encode(golden["text"], add_special_tokens=False).ids == golden["ids"]
        assert found.decode(golden["ids"]) == theirs.decode(golden["ids"])


def test_pretokenizers_differ():
    """Digits: one by one, in threes, or as they come; the pattern of qwen2 also composes accents."""
    texts = {name: CHATS[name]["tokenizer"] for name in ("qwen", "llama3", "smollm")}
    made = {name: tokenizers.Tokenizer.from_str(json.dumps(text)) for name, text in texts.items()}
    cuts = {name: [piece for piece, _ in t.pre_tokenizer.pre_tokenize_str("a 12345")] for name, t in made.items()}
    assert cuts["llama3"] == ["a", "Ġ", "123", "45"]
    assert cuts["qwen"] == cuts["smollm"] == ["a", "Ġ", "1", "2", "3", "4", "5"]
    assert len(gguf_tokenizer.SPLITS) == 6


def test_tekken_cuts_words_where_capitals_begin():
    steps = gguf_tokenizer.SPLITS["tekken"].steps
    pieces = [piece for piece, _ in steps[0].pre_tokenize_str("camelCase HTTPServer 12/\n")]
    assert pieces == ["camel", "Case", " HTTPServer", " ", "1", "2", "/\n"]


def test_tokens_that_end_a_turn(tmp_path):
    """The one in the file, those with a role of their own, and those that templates are known to use."""
    fields = fields_of("gemma")
    end = CHATS["gemma"]["tokenizer"]["model"]["vocab"]["<end_of_turn>"]
    found = gguf_tokenizer.read(write(tmp_path / "m.gguf", {**fields, "tokenizer.ggml.eos_token_id": 1}))
    assert found.stop == (1, end)
    found = gguf_tokenizer.read(
        write(tmp_path / "n.gguf", {**fields, "tokenizer.ggml.eos_token_id": 1, "tokenizer.ggml.eot_token_id": 0})
    )
    assert found.stop == (1, 0, end)
    assert found.pad == 1
    assert found.specials == {"eos_token": "<eos>"}


def test_user_defined_tokens_are_matched_but_written(tmp_path):
    fields = fields_of("qwen")
    fields["tokenizer.ggml.tokens"] = [*fields["tokenizer.ggml.tokens"], "<think>"]
    fields["tokenizer.ggml.token_type"] = [*fields["tokenizer.ggml.token_type"], gguf_tokenizer.USER]
    found = gguf_tokenizer.read(write(tmp_path / "m.gguf", fields)).tokenizer
    ids = found.encode("a<think>b").ids
    assert ids[1] == len(fields["tokenizer.ggml.tokens"]) - 1
    assert found.decode(ids) == "a<think>b"


@pytest.mark.parametrize(
    ("family", "change", "words"),
    [
        ("llama2", {"tokenizer.ggml.scores": [0.5]}, "scores has 1 numbers"),
        ("llama2", {"tokenizer.ggml.add_space_prefix": "yes"}, "add_space_prefix' should be bool"),
        ("qwen", {"tokenizer.ggml.merges": ["q zz"]}, "make no tokenizer"),
        ("qwen", {"tokenizer.ggml.merges": [1]}, "make no tokenizer"),
        ("qwen", {"tokenizer.ggml.eot_token_id": 9999}, "the eot token is 9999"),
    ],
)
def test_vocabularies_that_cannot_be_used(tmp_path, family, change, words):
    file = write(tmp_path / "m.gguf", {**fields_of(family), **change})
    with pytest.raises(ModelError, match=words):
        gguf_tokenizer.read(file)
