"""A template, its variables and ends of turns that an experiment tells of a model's conversations."""

import dataclasses
from pathlib import Path

import pytest
from made_directories import CHATML, HI, change, directory

from jaxalign.config.load import validate
from jaxalign.errors import ConfigError, ModelError
from jaxalign.exchange.export import export
from jaxalign.models.pretrained import Pretrained
from jaxalign.models.releases import LLAMA3_8B
from jaxalign.text import sandbox
from jaxalign.text.chat import compile_template
from jaxalign.text.told import Told

THINKING = (
    "  {% if enable_thinking is defined and not enable_thinking %}calm {% endif %}\n{{ date_string or '' }}" + CHATML
)


@pytest.fixture
def base(tmp_path) -> Path:
    """A base model: no template, and the token that ends a text alone."""
    path = directory(tmp_path / "base")
    change(path / "tokenizer_config.json", chat_template=None)
    return path


def told(path: Path, text: str = CHATML) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_model_without_a_template_is_told_one(base, tmp_path):
    with pytest.raises(ModelError, match="is told one as `template`"):
        Pretrained(str(base)).open()
    chat = Pretrained(str(base), template=told(tmp_path / "chatml.jinja")).open().chat
    assert chat.render(HI) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_a_template_that_is_told_takes_the_place_of_the_models_own(tmp_path):
    path = directory(tmp_path / "own")
    own = Pretrained(str(path)).open().chat
    other = Pretrained(str(path), template=told(tmp_path / "other.jinja", "{{ messages[0]['content'] }}!")).open().chat
    assert other.render(HI) == "Hi!"
    assert other.tool_template is None
    assert other.fingerprints["chat template"] != own.fingerprints["chat template"]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (False, "False"),
        (True, "True"),
        (3, "3"),
        (0.5, "0.5"),
        ('a "b" {{ c }}', 'a "b" {{ c }}'),
        (None, "None"),
        ("é", "é"),
        ("\N{GRINNING FACE}", "\N{GRINNING FACE}"),
    ],
)
def test_variables_have_their_values_everywhere_in_a_template(value, written):
    template = "{% macro m() %}{{ x }}{% endmacro %}{% for n in [1] %}{{ x }}|{{ m() }}{% endfor %}"
    compiled = compile_template(Told(variables=(("x", value),)).set(template), "here")
    assert sandbox.render(compiled, {}) == f"{written}|{written}"
    assert sandbox.render(compiled, {"x": "given"}) == "given|given"


def test_a_template_with_variables_writes_what_it_would_with_them_given():
    told_it = Told(variables=(("enable_thinking", False), ("date_string", "1 May")))
    plain, set_in_front = (compile_template(text, "here") for text in (THINKING, told_it.set(THINKING)))
    given = {"messages": HI, "add_generation_prompt": True}
    expected = sandbox.render(plain, {**given, "enable_thinking": False, "date_string": "1 May"})
    assert "calm" in expected
    assert sandbox.render(set_in_front, given) == expected
    assert Told().set(THINKING) == THINKING


def test_an_export_hands_on_what_was_told(base, tmp_path):
    source = Pretrained(
        str(base),
        template=told(tmp_path / "t.jinja", THINKING),
        variables=(("enable_thinking", False),),
        ends=("<|pad|>",),
    )
    model = source.open()
    export(model, model.load(), tmp_path / "out")
    again = Pretrained(str(tmp_path / "out")).open().chat
    assert again.render(HI) == model.chat.render(HI)
    assert "calm" in again.render(HI)
    assert set(again.stop) == set(model.chat.stop)


def test_ends_that_are_told_are_beside_those_of_the_files(base, tmp_path):
    template = told(tmp_path / "t.jinja")
    before = Pretrained(str(base), template=template).open().chat
    after = Pretrained(str(base), template=template, ends=("<|pad|>", "<|im_end|>")).open().chat
    assert after.stop == (*before.stop, before.tokenizer.token_to_id("<|pad|>"))
    with pytest.raises(ModelError, match=r"ends: '<\|gone\|>' is no token of the model"):
        Pretrained(str(base), template=template, ends=("<|gone|>",)).open()


def test_ends_alone_do_for_files_that_name_none(base, tmp_path):
    for file in ("generation_config.json", "config.json"):
        change(base / file, eos_token_id=None)
    change(base / "tokenizer_config.json", eos_token=None)
    with pytest.raises(ModelError, match="no usable end-of-turn id"):
        Pretrained(str(base), template=told(tmp_path / "t.jinja")).open()
    chat = Pretrained(str(base), template=told(tmp_path / "t.jinja"), ends=("<|im_end|>",)).open().chat
    assert chat.decode(chat.stop) == ""
    assert len(chat.stop) == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"variables": (("messages", 1),)}, "'messages' is no name"),
        ({"variables": (("x y", 1),)}, "'x y' is no name"),
        ({"variables": (("x", 1), ("x", 2))}, "'x' is there twice"),
    ],
)
def test_names_that_cannot_be_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        validate(Pretrained("here", **settings))


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "not readable"), (b"\xff", "not readable"), (b" ", "is empty"), (b"{% if", "no valid")],
)
def test_a_file_that_is_no_template_is_named(base, tmp_path, content, words):
    if content is not None:
        (tmp_path / "t.jinja").write_bytes(content)
    with pytest.raises(ModelError, match=words):
        Pretrained(str(base), template=str(tmp_path / "t.jinja")).open()


def test_what_is_told_is_a_value():
    one = Pretrained("here", variables=(("x", False),), ends=("e",))
    assert hash(one) == hash(dataclasses.replace(one))


def test_what_no_template_and_no_model_has_is_refused():
    odd = Pretrained("nowhere", variables=(("x", float("inf")),), shape=dataclasses.replace(LLAMA3_8B, kv_cache="int8"))
    assert list(odd.problems()) == [
        "variables: 'x' must be finite, got inf",
        "shape.kv_cache is no field of a model's files: the engine of a rollout has it (engine.kv_cache)",
    ]
