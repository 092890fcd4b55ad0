"""Messages to tokens and back: the template's rules, the sandbox, and tokenizers that cannot be used."""

import dataclasses
import datetime
import json
import pathlib

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxalign.errors import DataError, ModelError
from jaxalign.models.pretrained import SmolLM2
from jaxalign.models.random_llama import TEMPLATE, byte_chat
from jaxalign.text import chat, sandbox
from jaxalign.text.spans import spans

HELLO = [{"role": "user", "content": "Grüße, 42 ✓"}]
GOLDEN = json.loads((pathlib.Path(__file__).parent / "goldens" / "smollm2.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def speaker() -> chat.Chat:
    return byte_chat()


BIG = "{% set n = namespace(x='ab') %}{% for i in range(20) %}{% set n.x = n.x + n.x %}{% endfor %}"
"""A text of two million characters."""


def with_template(template: str) -> chat.Chat:
    return dataclasses.replace(byte_chat(), template=template, file="here.jinja")


def test_a_conversation_is_what_the_template_writes(speaker):
    ids = speaker.encode(HELLO)
    text = "user\nGrüße, 42 ✓"
    assert ids[0] == 1
    assert ids.count(1) == 2
    assert ids.count(2) == 1
    assert ids[1 : 1 + len(text.encode())] == [3 + byte for byte in text.encode()]
    assert speaker.decode(ids) == f"{text}\nassistant\n"
    assert speaker.stop == (2,)
    assert speaker.vocab == 259


def test_several_turns(speaker):
    turns = [{"role": "system", "content": "s"}, *HELLO, {"role": "assistant", "content": "a"}, *HELLO]
    assert speaker.encode(turns).count(1) == 5


def test_special_tokens_spelled_out_become_special_tokens(speaker):
    """As transformers has it: the rendered text is tokenized as a whole."""
    assert speaker.encode([{"role": "user", "content": "<|im_end|>"}]).count(2) == 2


def test_fingerprints_follow_what_decides_the_ids(speaker):
    assert speaker.fingerprints == byte_chat().fingerprints
    shorter = byte_chat().tokenizer
    shorter.normalizer = tokenizers.normalizers.Lowercase()
    others = {
        "tokenizer": dataclasses.replace(speaker, tokenizer=shorter),
        "chat template": with_template(TEMPLATE + " "),
        "chat template for tools": dataclasses.replace(speaker, tool_template=TEMPLATE),
        "special tokens": dataclasses.replace(speaker, specials={"bos_token": "<|pad|>"}),
        "end-of-turn ids": dataclasses.replace(speaker, stop=(2, 3)),
        "padding id": dataclasses.replace(speaker, pad=1),
    }
    for name, other in others.items():
        differ = {part for part, value in other.fingerprints.items() if value != speaker.fingerprints[part]}
        assert differ == {name}
    assert speaker.dated(datetime.date(2001, 2, 3)).fingerprints == speaker.fingerprints


def test_a_dated_chat_has_one_day_for_ever(monkeypatch):
    written = "{% macro day() %}{{ strftime_now('%d %b %Y') }}{% endmacro %}{{ day() if strftime_now is defined }}"
    clock = with_template(written)
    dated = clock.dated(datetime.date(2024, 2, 29))
    assert [dated.render(HELLO) for _ in range(2)] == ["29 Feb 2024"] * 2
    assert dataclasses.replace(dated, tool_template=written).render(HELLO, [{"name": "f"}]) == "29 Feb 2024"

    class Tomorrow(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.datetime(2038, 1, 19, 3)

    monkeypatch.setattr(chat.datetime, "datetime", Tomorrow)
    assert clock.render(HELLO) == "19 Jan 2038"
    assert dated.encode(HELLO) == dated.tokenizer.encode("29 Feb 2024", add_special_tokens=False).ids


def test_templates_get_what_transformers_gives_them():
    rendered = with_template(
        "{{ bos_token }}{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m | tojson }}"
        "{% endfor %}{{ strftime_now('%Y') | length }}"
    ).render(HELLO * 2)
    assert rendered == '<|im_start|>{"role": "user", "content": "Grüße, 42 ✓"}4'


def test_a_template_may_refuse_messages():
    with pytest.raises(DataError, match=r"here\.jinja refuses these messages: no system prompts"):
        with_template("{{ raise_exception('no system prompts') }}").encode(HELLO)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ messages.__init__.__globals__ }}",
        "{% for i in range(1000000000) %}{% endfor %}",
        "{{ 'x' * 10000000000 }}",
        "{{ 9 ** 99999999 }}",
        "{{ cycler.__globals__['os'] }}",
        "{{ lipsum(n=1000000000) }}",
        "{{ '%10000000000d' % 1 }}",
        "{{ messages[0].missing.more }}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
        "{% macro twice(n) %}{% if n %}{{ twice(n - 1) }}{{ twice(n - 1) }}{% endif %}{% endmacro %}{{ twice(40) }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{% for m in messages %}{{ m | tojson | upper | list }}{% endfor %}{% endfor %}",
        "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x %}{{ n.x }}{{n.x}}{% endset %}{% endfor %}",
        "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x.replace('a', n.x) %}{% endfor %}",
        "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x | replace('b', n.x) %}{% endfor %}",
        "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x.join([n.x, n.x]) %}{% endfor %}",
        "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = [n.x, n.x] | join %}{% endfor %}",
        "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "{% set n = namespace(x=3) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}",
        "{% for i in range(90000) %}" + "x" * 1000 + "{% endfor %}",
        "{% macro m() %}{% for i in range(90000) %}" + "x" * 1000 + "{% endfor %}{% endmacro %}{% set y = m() %}",
        "{{ range(99999) | map('string') | map('list') | map('length') | list * 3 }}",
        "{% for i in range(99) %}{{ range(99999) | list | length }}{% endfor %}",
        "{{ 'x'.center(10000000000) }}",
        "{{ 'x' | center(10000000000) }}",
        "{{ 'x' | indent(10000000000) }}",
        "{{ messages | tojson(indent=10000000000) }}",
        "{{ '{:10000000000}'.format(1) }}",
        "{{ messages[0].content.encode() }}",
        "{{ 1 // 0 }}",
        "{{ messages | join(attribute='__class__') }}",
        "{% import 'os' as os %}",
        "{% set n = namespace(x=1) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
        "{% set n = namespace(x=1) %}{% for i in range(60) %}{% set n.x = {'a': n.x, 'b': n.x} %}{% endfor %}",
        "{% set n = namespace(x=1) %}{% for i in range(60) %}{% set n.x = dict(a=n.x, b=n.x) %}{% endfor %}",
        "{% set n = namespace(x=1) %}{% for i in range(60) %}{% set n.x = namespace(a=n.x, b=n.x) %}{% endfor %}{{n}}",
        "{% set x = 'x' | string %}{{ [messages] * 3 }}",
        "{{ namespace }}",
        "{% set n = namespace(x=['ab' * 1]) %}",
        "{% set n = namespace(x=[messages | tojson]) %}{% for i in range(26) %}{% set n.x = n.x + n.x %}{% endfor %}"
        "{{ ''.join(n.x) }}",
        BIG + "{% for i in range(9999) %}{% if 'bx' in n.x %}{% endif %}{% endfor %}",
        BIG + "{% for i in range(9999) %}{% if n.x == n.x ~ '' %}{% endif %}{% endfor %}",
        BIG + "{% for i in range(9999) %}{% if n.x is lower %}{% endif %}{% endfor %}",
        BIG + "{% for i in range(9999) %}{% set y = n.x[1:] %}{% endfor %}",
        "{% for i in range(40000) %}" + "{% set y = 1 %}" * 500 + "{% endfor %}",
        "{% macro m() %}" + "{% set y = 1 %}" * 500 + "{% endmacro %}{% for i in range(40000) %}{{ m() }}{% endfor %}",
        "{{ 1.5 | round(1000000000, 'ceil') }}",
    ],
)
def test_the_sandbox_refuses(template, monkeypatch):
    monkeypatch.setattr(sandbox, "STEPS", sandbox.STEPS // 40)  # the tests are to be quick
    with pytest.raises(ModelError, match=r"here\.jinja: the chat template"):
        with_template(template).encode(HELLO)


def test_the_sandbox_leaves_what_templates_need():
    template = (
        "{%- for m in messages -%}{{ loop.index0 * 2 + 1 }}{{ m['role'] | upper }}{{ m.content.split(' ')[0].strip() }}"
        "{%- set n = namespace(found=false) -%}{% if 'x' in m.content or m.get('k') is defined %}{{ n.found }}"
        "{% endif %}"
        "{{ (m.content | length // 2) ~ ';' }}{% endfor %}{{ messages | map(attribute='role') | join(',') }}"
        "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ [3, 1] | sort | first }}"
        "{{ 'a\nb' | indent(2) }}{{ {'k': 1} | items | list }}{{ (1, 2) | tojson(indent=1) | replace('\n', '') }}"
    )
    text = with_template(template).render([{"role": "user", "content": "ab cd"}, {"role": "tool", "content": "x"}])
    assert text == "1USERabFalse2;3TOOLxFalse0;user,tool11a\n  b[('k', 1)][ 1, 2]"


def test_long_conversations_are_within_the_budget():
    messages = [{"role": "user", "content": "word " * 2000}] * 400
    assert len(byte_chat().render(messages)) > 4_000_000


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% for m in messages %}", "no valid template"),
        ("{% include 'x' %}{% if %}", "no valid template"),
        ("{% if true %}" * 300 + "{% endif %}" * 300, "no valid template"),
    ],
)
def test_templates_that_cannot_be_used_are_found_on_opening(template, words):
    with pytest.raises(ModelError, match=words):
        chat.checked(with_template(template))


# --------------------------------------------------------------------------------------------------------------
# Directories


@pytest.fixture
def directory(tmp_path, speaker) -> pathlib.Path:
    (tmp_path / "tokenizer.json").write_text(speaker.tokenizer.to_str(), encoding="utf-8")
    configure(tmp_path, chat_template=TEMPLATE, **speaker.specials)
    return tmp_path


def configure(directory: pathlib.Path, **fields) -> None:
    (directory / "tokenizer_config.json").write_text(json.dumps(fields), encoding="utf-8")


def test_a_directory_gives_the_same_chat(directory, speaker):
    found = chat.from_directory(directory)
    assert found.fingerprints == speaker.fingerprints
    assert found.encode(HELLO) == speaker.encode(HELLO)


def test_other_ways_to_write_the_same(directory, speaker):
    configure(
        directory,
        chat_template=[{"name": "tools", "template": "no"}, {"name": "default", "template": "old"}],
        eos_token={"content": "<|im_end|>", "lstrip": False},
    )
    (directory / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')
    found = chat.from_directory(directory)
    assert found.template == "old"
    assert found.stop == (1, 2)
    assert found.pad == 1
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    assert chat.from_directory(directory).encode(HELLO) == speaker.encode(HELLO)


def test_conversations_with_tools_may_have_a_template_of_their_own(directory, speaker):
    named = [{"name": "default", "template": TEMPLATE}, {"name": "tool_use", "template": "{{ tools | tojson }}"}]
    configure(directory, chat_template=named, **speaker.specials)
    found = chat.from_directory(directory)
    assert found.encode(HELLO) == speaker.encode(HELLO)
    assert found.render(HELLO, [{"name": "ça"}]) == '[{"name": "ça"}]'
    assert found.fingerprints != speaker.fingerprints
    configure(directory, chat_template=[*named[:1], {"name": "tool_use", "template": 1}], **speaker.specials)
    with pytest.raises(ModelError, match="neither chat_template"):
        chat.from_directory(directory)


def test_padding_and_truncation_of_a_tokenizer_file_are_not_ours(directory, speaker):
    file = directory / "tokenizer.json"
    tokenizer = tokenizers.Tokenizer.from_file(str(file))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=99)
    tokenizer.save(str(file))
    assert chat.from_directory(directory).encode(HELLO) == speaker.encode(HELLO)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("tokenizer.json", None, "tokenizer.json: no such file"),
        ("tokenizer.json", "{", "tokenizer.json: not readable JSON"),
        ("tokenizer.json", "{}", "tokenizer.json: not a tokenizer"),
        ("tokenizer_config.json", "[]", "tokenizer_config.json: should hold a JSON object"),
        ("tokenizer_config.json", '{"eos_token": "<|im_end|>"}', "neither chat_template.jinja nor"),
        ("tokenizer_config.json", '{"chat_template": "x"}', "no usable end-of-turn id"),
        (
            "tokenizer_config.json",
            '{"chat_template": "x", "eos_token": "<|im_end|>", "pad_token": "[gone]"}',
            "pad_token",
        ),
        ("generation_config.json", '{"eos_token_id": 9999}', "no usable end-of-turn id"),
        ("chat_template.jinja", "{% if %}", "no valid template"),
    ],
)
def test_directories_that_cannot_be_used(directory, file, content, words):
    if content is None:
        (directory / file).unlink()
    else:
        (directory / file).write_text(content)
    with pytest.raises(ModelError, match=words):
        chat.from_directory(directory)


# --------------------------------------------------------------------------------------------------------------
# SmolLM2


@pytest.fixture(scope="module")
def smollm2() -> chat.Chat:
    try:
        return SmolLM2().open().chat
    except ModelError as error:
        pytest.skip(str(error))


def test_smollm2_encodes_as_transformers_does(smollm2):
    assert smollm2.encode(GOLDEN["messages"]) == GOLDEN["prompt"]
    assert smollm2.tokenizer.encode(GOLDEN["text"]).ids == GOLDEN["ids"]
    assert smollm2.decode(GOLDEN["ids"]) == GOLDEN["text"]
    assert smollm2.stop == (2,)
    assert smollm2.pad == 2


def test_smollm2_reads_digits_one_by_one(smollm2):
    assert smollm2.tokenizer.encode("1984").tokens == ["1", "9", "8", "4"]


# --------------------------------------------------------------------------------------------------------------
# Families: goldens of transformers

CHATS = json.loads((pathlib.Path(__file__).parent / "goldens" / "chats.json").read_text(encoding="utf-8"))
CASES = [(family, name) for family, made in CHATS.items() for name in made["conversations"]]


def family_chat(family: str, template: str | None = None) -> chat.Chat:
    made = CHATS[family]
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(made["tokenizer"]))
    eos = tokenizer.token_to_id(made["specials"]["eos_token"])
    return chat.Chat(tokenizer, template or made["template"], (eos,), eos, made["specials"], family)


def without_marks(family: str) -> str:
    """The family's template, not saying what the assistant generates."""
    return CHATS[family]["template"].replace("{% generation %}", "").replace("{% endgeneration %}", "")


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


SPEAKER = byte_chat()


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
