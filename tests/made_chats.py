"""A conversation, the chat of bytes under another template, and the chats of families."""

import dataclasses
import json
import pathlib

import tokenizers

from jaxalign.models.random_llama import byte_chat
from jaxalign.text.chat import Chat

CHATS = json.loads((pathlib.Path(__file__).parent / "goldens" / "chats.json").read_text(encoding="utf-8"))
HELLO = [{"role": "user", "content": "Grüße, 42 ✓"}]


def with_template(template: str) -> Chat:
    return dataclasses.replace(byte_chat(), template=template, file="here.jinja")


def family_chat(family: str, template: str | None = None) -> Chat:
    made = CHATS[family]
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(made["tokenizer"]))
    eos = tokenizer.token_to_id(made["specials"]["eos_token"])
    return Chat(tokenizer, template or made["template"], (eos,), eos, made["specials"], family)


def without_marks(family: str) -> str:
    """The family's template, not saying what the assistant generates."""
    return CHATS[family]["template"].replace("{% generation %}", "").replace("{% endgeneration %}", "")
