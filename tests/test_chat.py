"""Messages to tokens and back: the template's rules, the sandbox, and tokenizers that cannot be used."""

import dataclasses
import json
import pathlib

import pytest

from jaxalign import chat
from jaxalign.errors import DataError, ModelError
from jaxalign.models.pretrained import SmolLM2
from jaxalign.models.random_llama import TEMPLATE, byte_chat

HELLO = [{"role": "user", "content": "Grüße, 42 ✓"}]
GOLDEN = json.loads((pathlib.Path(__file__).parent / "goldens" / "smollm2.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def speaker() -> chat.Chat:
    return byte_chat()


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
    assert speaker.fingerprint == byte_chat().fingerprint
    assert speaker.fingerprint != with_template(TEMPLATE + " ").fingerprint
    assert speaker.fingerprint != dataclasses.replace(speaker, stop=(2, 3)).fingerprint


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
    ],
)
def test_the_sandbox_refuses(template):
    with pytest.raises(ModelError, match=r"here\.jinja: the chat template"):
        with_template(template).encode(HELLO)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% for m in messages %}", "no valid template"),
        ("{% for a in messages %}" * 5 + "{% endfor %}" * 5, "nests loops"),
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
    assert found.fingerprint == speaker.fingerprint
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
