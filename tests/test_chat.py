"""Messages to tokens and back: the template's rules, the sandbox, and tokenizers that cannot be used."""

import dataclasses
import datetime
import json
import pathlib

import pytest
import tokenizers
from made_chats import HELLO, with_template

from jaxalign.errors import DataError, ModelError
from jaxalign.models.pretrained import SmolLM2
from jaxalign.models.random_llama import TEMPLATE, byte_chat
from jaxalign.text import chat, sandbox

GOLDEN = json.loads((pathlib.Path(__file__).parent / "goldens" / "smollm2.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def speaker() -> chat.Chat:
    return byte_chat()


BIG = "{% set n = namespace(x='ab') %}{% for i in range(20) %}{% set n.x = n.x + n.x %}{% endfor %}"
"""A text of two million characters."""


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


def test_a_closed_chat_ends_where_the_last_turn_does(speaker):
    messages = [{"role": "user", "content": " Why? "}, {"role": "assistant", "content": "Because.\n"}]
    closed = speaker.closed()
    whole = speaker.render(messages, answering=False)
    assert whole.endswith("<|im_end|>\n")
    assert closed.render(messages, answering=False) == whole.removesuffix("\n")
    assert closed.encode(messages[:1]) == speaker.encode(messages[:1])
    assert closed.pad == closed.unread == speaker.pad
    assert closed.judged(closed.encode_all([closed.render(messages, answering=False)])[0])[-1] in closed.stop
    ending = dataclasses.replace(speaker, pad=2, specials={**speaker.specials, "pad_token": "<|im_end|>"}).closed()
    assert (ending.pad, ending.specials["pad_token"]) == (1, "<|im_start|>")
    # templates end with a line break of their file, or with spaces that they mean
    for template in ("{{ messages[0].content }}\n", "{{ messages[0].content }}\n  ", "{% if true %}x{% endif %}\n"):
        plain = dataclasses.replace(speaker, template=template)
        assert plain.closed().render(messages) == plain.render(messages)
        assert plain.closed().render(messages, answering=False) == plain.render(messages, answering=False).rstrip()


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
        ("{% if 0 %}" + "{% elif 0 %}" * 10_000 + "{% endif %}", "no valid template"),
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
            '{"chat_template": "x", "eos_token": "<|im_end|>", "pad_token": 3}',
            "pad_token",
        ),
        ("generation_config.json", '{"eos_token_id": -1}', "no usable end-of-turn id"),
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
