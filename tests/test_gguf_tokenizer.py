"""Tokenizers rebuilt from GGUF metadata give the ids that transformers gives; see goldens/make_chats.py."""

import json

import pytest
import tokenizers
from made_gguf import CHATS, vocabulary_fields, write_vocabulary

from jaxalign.errors import ModelError
from jaxalign.text import gguf_tokenizer


@pytest.mark.parametrize("family", sorted(CHATS))
def test_ids_are_those_of_transformers(tmp_path, family):
    found = gguf_tokenizer.read(write_vocabulary(tmp_path / "m.gguf", vocabulary_fields(family))).tokenizer
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
    fields = vocabulary_fields("gemma")
    end = CHATS["gemma"]["tokenizer"]["model"]["vocab"]["<end_of_turn>"]
    found = gguf_tokenizer.read(write_vocabulary(tmp_path / "m.gguf", {**fields, "tokenizer.ggml.eos_token_id": 1}))
    assert found.stop == (1, end)
    found = gguf_tokenizer.read(
        write_vocabulary(
            tmp_path / "n.gguf", {**fields, "tokenizer.ggml.eos_token_id": 1, "tokenizer.ggml.eot_token_id": 0}
        )
    )
    assert found.stop == (1, 0, end)
    assert found.pad == 1
    assert found.specials == {"eos_token": "<eos>"}


def test_user_defined_tokens_are_matched_but_written(tmp_path):
    fields = vocabulary_fields("qwen")
    fields["tokenizer.ggml.tokens"] = [*fields["tokenizer.ggml.tokens"], "<think>"]
    fields["tokenizer.ggml.token_type"] = [*fields["tokenizer.ggml.token_type"], gguf_tokenizer.USER]
    found = gguf_tokenizer.read(write_vocabulary(tmp_path / "m.gguf", fields)).tokenizer
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
    file = write_vocabulary(tmp_path / "m.gguf", {**vocabulary_fields(family), **change})
    with pytest.raises(ModelError, match=words):
        gguf_tokenizer.read(file)
