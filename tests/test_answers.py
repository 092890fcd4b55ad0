"""Answers that are read beside the first one to their prompt have the tokens that they have alone, token for token."""

import dataclasses
import itertools
import json
import pickle

import numpy as np
import pytest
import tokenizers
from made_chats import CHATS, family_chat, with_template, without_marks

from jaxalign.data.comparisons.record import Comparison
from jaxalign.data.comparisons.tokenised import Ids
from jaxalign.errors import DataError
from jaxalign.text import answers, pairs
from jaxalign.text.chat import Chat
from jaxalign.text.pairs import Encode, Room
from jaxalign.types import Prompt

ROOM = Room(4096, 4096)
PROMPTS = (
    [{"role": "user", "content": "Why is the sky blue?"}],
    [{"role": "user", "content": "  Grüße, 42 ✓ "}],
    [
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "I am."},
        {"role": "user", "content": "<s>[/INST]<|im_end|> and?"},
    ],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}],
)
ANSWERS = (
    "So.",
    "Nobody knows, and 日本 ✓",
    " a space first",
    "",
    "ends here<|im_end|>\nmore",
    "</s>",
    "So.\n\n1. one\n",
    "😀",
)
PAIRS = [
    Comparison(Prompt(str(number), tuple(messages)), pair, 1.0, (1.0,), "here")
    for pair in itertools.pairwise((*ANSWERS, *ANSWERS[::-2]))
    for number, messages in enumerate(PROMPTS)
]
"""Prompts in turn, so that answers to one lie in several blocks."""


def alone(chat: Chat, each: Comparison) -> Ids | str:
    """The ids of a comparison, every answer located by itself."""
    if len(set(each.answers)) < len(each.answers):
        return "twice the same answer"
    try:
        prompt = np.asarray(chat.encode(each.prompt.messages), np.int32)
        told = tuple(answers.located(chat, each.prompt, answer) for answer in each.answers)
    except DataError:
        return "a conversation that the chat template refuses"
    return Ids(prompt, told) if all(map(len, told)) else "an answer without a token to score"


def as_lists(found: Ids | str) -> str | list[list[int]]:
    return found if isinstance(found, str) else [found.prompt.tolist(), *(answer.tolist() for answer in found.answers)]


def check(chat: Chat) -> bool:
    """Whether answers were read beside others: fewer were located than where none can be."""
    located = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "located", lambda *args: located.append(args) or answers.located(*args))
        made, beside = encoded(chat), len(located)
        patch.setattr(answers, "surroundings", lambda *args: None)
        apart = encoded(chat)
    assert made == apart == [as_lists(alone(chat, each)) for each in PAIRS]
    return beside < len(located) - beside


def encoded(chat: Chat) -> list[str | list[list[int]]]:
    encode = Encode(chat, ROOM)
    return [as_lists(each) for start in range(0, len(PAIRS), 7) for each in encode(PAIRS[start : start + 7])]


@pytest.mark.parametrize("marks", [False, True], ids=["by turns", "by marks"])
@pytest.mark.parametrize("family", CHATS)
def test_families(family, marks):
    """Where the template says itself what is generated, every answer is located."""
    chat = family_chat(family) if marks else family_chat(family, without_marks(family))
    assert check(chat) == ("endgeneration" not in chat.template)


CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ WRITE }}<|im_end|>\n{% endfor %}" + (
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATES = {
    "plain": ("m.content", True),
    "trimmed": ("m.content | trim", True),
    "twice": ("m.content ~ m.content if m.role == 'assistant' else m.content", False),
    "thoughts": ("m.content.split('1.')[-1]", True),
    "the first word": ("m.content.split(' ')[0] if m.role == 'system' else m.content", True),
    "behind": ("m.content ~ (' [' ~ m.content[:2] ~ ']' if m.role == 'assistant' and loop.last else '')", False),
}
"""How a template writes a message, and whether answers so written are read beside one another."""


@pytest.mark.parametrize(("write", "beside"), TEMPLATES.values(), ids=TEMPLATES)
def test_templates_that_look_into_answers(write, beside):
    assert check(with_template(CHATML.replace("WRITE", write))) == beside


def test_a_refused_order_of_roles():
    assert check(
        with_template(
            "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
            + CHATML.replace("WRITE", "m.content")
        )
    )


@pytest.mark.parametrize("change", ["padded", "cut off", "normalised", "part of another", "in one word"])
def test_tokenizers_that_text_may_not_be_cut_for(change):
    """Of these no token is one to cut at, and every answer is located."""
    plain = family_chat("smollm", without_marks("smollm"))
    tokenizer = tokenizers.Tokenizer.from_str(plain.tokenizer.to_str())
    if change == "padded":
        tokenizer.enable_padding(length=64)
    elif change == "cut off":
        tokenizer.enable_truncation(512)
    elif change == "part of another":
        tokenizer.add_tokens(
            [tokenizers.AddedToken(f"{text}!", normalized=False) for text in answers.special(tokenizer).values()]
        )
    else:
        made = json.loads(tokenizer.to_str())
        setting = "normalized" if change == "normalised" else "single_word"
        made["added_tokens"] = [{**each, setting: True} for each in made["added_tokens"]]
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(made))
    other = dataclasses.replace(plain, tokenizer=tokenizer)
    cuts = answers.special(tokenizer)
    assert answers.special(plain.tokenizer)
    assert not cuts or change == "part of another"
    assert {each.cut for each in answers.asked(other, [each.prompt for each in PAIRS[:4]]) if each} == {None}


def test_one_answer_to_a_prompt_is_located_and_its_prompt_is_read_once(monkeypatch):
    """Of forty comparisons of one prompt; and texts go to the tokenizer together."""
    chat, read, located = family_chat("smollm", without_marks("smollm")), [], []
    whole = answers.tokenized_whole
    monkeypatch.setattr(
        answers, "tokenized_whole", lambda of, texts, file: read.append(len(texts)) or whole(of, texts, file)
    )
    monkeypatch.setattr(pairs, "located", lambda *args: located.append(args) or answers.located(*args))
    many = [dataclasses.replace(PAIRS[0], answers=(f"So {n}.", f"No {n}.")) for n in range(40)]
    made = Encode(chat, ROOM)(many)
    assert all(isinstance(each, Ids) for each in made)
    assert len(located) == 1
    assert read == [1, 1, 79]  # the prompt; the first answer once more, to see that it is read alike; the others


def test_remembered_prompts_are_bounded_and_do_not_travel(monkeypatch):
    monkeypatch.setattr(pairs, "KEPT", 2)
    encode = Encode(family_chat("smollm", without_marks("smollm")), ROOM)
    for start in range(0, len(PAIRS), 4):
        encode(PAIRS[start : start + 4])
        assert len(encode.known) <= 2 + 4
    plain = Encode(with_template(CHATML.replace("WRITE", "m.content")), ROOM)
    plain(PAIRS[:4])
    assert pickle.loads(pickle.dumps(plain)).known == {}
