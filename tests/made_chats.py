"""A conversation, and the chat of bytes under another template."""

import dataclasses

from jaxalign.models.random_llama import byte_chat
from jaxalign.text.chat import Chat

HELLO = [{"role": "user", "content": "Grüße, 42 ✓"}]


def with_template(template: str) -> Chat:
    return dataclasses.replace(byte_chat(), template=template, file="here.jinja")
