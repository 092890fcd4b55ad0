"""Spans: whose each token of a conversation is; families against goldens of transformers, templates by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_chats import CHATS, HELLO, family_chat, with_template, without_marks

from jaxalign.errors import DataError
from jaxalign.models.random_llama import byte_chat
from jaxalign.text import chat
from jaxalign.text.spans import spans

SPEAKER = byte_chat()


@pytest.fixture(scope="module")
def speaker() -> chat.Chat:
    return SPEAKER


# --------------------------------------------------------------------------------------------------------------
# Families: goldens of transformers

CASES = [(family, name) for family, made in CHATS.items() for name in made["conversations"]]


@pytest.mark.parametrize(("family", "name"), CASES)
def test_families_are_encoded_as_transformers_does(family, name):
    golden = CHATS[family]["conversations"][name]
    for speaker in (family_chat(family), family_chat(family, without_marks(family))):
        assert speaker.render(golden["messages"], golden["tools"], answering=False) == golden["text"]
        assert speaker.encode(golden["messages"][:1], golden["tools"]) == golden["prompt"]
        assert spans(speaker, golden["messages"], golden["tools"]).ids.tolist() == golden["ids"]


@pytest.mark.parametrize(("family", "name"), CASES)
def test_the_assistants_tokens_are_those_of_transformers(family, name):
    """With the template's marks exactly; from the messages alone, but for spaces that the template writes."""
    golden = CHATS[family]["conversations"][name]
    marked = spans(family_chat(family), golden["messages"], golden["tools"])
    assert marked.generated.tolist() == [bool(flag) for flag in golden["mask"]]
    speaker = family_chat(family, without_marks(family))
    found = spans(speaker, golden["messages"], golden["tools"])
    assert found.message.tolist() == marked.message.tolist()
    for index in np.flatnonzero(found.generated != marked.generated):
        assert speaker.tokenizer.decode([golden["ids"][index]]).strip() == ""
    ends = [index for index, i in enumerate(golden["ids"]) if i in speaker.stop and found.generated[index]]
    assert len(ends) == sum(message["role"] == "assistant" for message in golden["messages"])


@pytest.mark.parametrize(("family", "name"), CASES)
def test_a_message_is_what_its_tokens_say(family, name):
    golden = CHATS[family]["conversations"][name]
    speaker = family_chat(family, without_marks(family))
    found = spans(speaker, golden["messages"], golden["tools"])
    for index, message in enumerate(golden["messages"]):
        ids = found.ids[(found.message == index) & ~np.isin(found.ids, speaker.stop)]
        assert speaker.decode(ids.tolist()).strip() == message["content"].strip()


# --------------------------------------------------------------------------------------------------------------
# Spans


def test_spans_by_hand(speaker):
    """ChatML over bytes: each letter is a token. The user's text spells a role, the assistant's another message."""
    messages = [{"role": "user", "content": "user"}, {"role": "assistant", "content": "user"}]
    found = spans(speaker, messages)
    glue = [-1] * len("?user\n")
    closing, line = [-1], [-1]
    assert found.message.tolist() == glue + [0] * 4 + closing + line + [-1] * len("?assistant\n") + [1] * 4 + [1] + line
    assert found.generated.tolist() == [m == 1 for m in found.message]
    assert found.ids[-2] == speaker.stop[0]


def test_spans_of_calls_without_text(speaker):
    """An assistant that calls a tool generates all from the prompt on, to the end of its turn."""
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.tool_calls %}CALL {{ m.tool_calls | tojson }}"
        "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    messages = [*HELLO, {"role": "assistant", "content": None, "tool_calls": ["f"]}, {"role": "tool", "content": "4"}]
    found = spans(with_template(template), messages, [{"name": "f"}])
    assert speaker.decode(found.ids[found.generated].tolist()) == 'CALL ["f"]'
    assert found.ids[found.generated][-1] == 2
    assert speaker.decode(found.ids[found.message == 2].tolist()) == "4"
    with pytest.raises(DataError, match=r"message 0 \(user\) has no text"):
        spans(with_template(template), [{"role": "user", "content": None, "tool_calls": ["f"]}])


@pytest.mark.parametrize(
    ("write", "words"),
    [
        ("{{ m.content | upper }}", r"content of message 1 \(assistant\)"),
        ("{{ m.content[:3] }}", r"content of message 1 \(assistant\)"),
        ("{{ m.content }}{{ m.content }}", r"content of message 1 \(assistant\)"),
        ("", r"content of message 1 \(assistant\)"),
        ("{{ 'none' if m.content == 'answer' else m.content }}", r"content of message 1 \(assistant\)"),
    ],
)
def test_templates_that_rewrite_messages_are_named(write, words):
    template = "{% for m in messages %}{% if loop.first %}{{ m.content }}{% else %}" + write + "{% endif %}{% endfor %}"
    with pytest.raises(DataError, match=words):
        spans(with_template(template), [*HELLO, {"role": "assistant", "content": "answer"}])


def test_the_templates_own_word_counts():
    """Generation blocks mark the text, whoever's it is; the message is the one that the text is in."""
    template = "{% for m in messages %}[{% generation %}{{ m.content }}{% endgeneration %}]{% endfor %}"
    found = spans(with_template(template), [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}])
    assert found.generated.tolist() == [False, True, False] * 2
    assert found.message.tolist() == [-1, 0, -1, -1, 1, -1]


def test_marks_in_messages_are_refused(speaker):
    with pytest.raises(DataError, match=r"message 0 holds one of the private-use characters"):
        spans(speaker, [{"role": "user", "content": "\U0010fff2"}])


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), st.text(max_size=12)), min_size=1, max_size=5)
)
def test_spans_of_any_text(turns):
    """Bytes of the tokens of a message are the message, whatever it says, special tokens apart."""
    messages = [{"role": role, "content": text} for role, text in turns]
    if any(mark in text for _, text in turns for mark in "\U0010fff0\U0010fff1\U0010fff2\U0010fff3"):
        return
    if any("\ud800" <= c <= "\udfff" for _, text in turns for c in text):
        return
    found = spans(SPEAKER, messages)
    for index, (role, text) in enumerate(turns):
        mine = found.message == index
        assert bytes(int(i) - 3 for i in found.ids[mine] if i > 2) == text.encode()
        assert found.generated[mine].all() == (role == "assistant") or not mine.any()
    assert not found.generated[found.message == -1].any()
