"""Turns of the assistant: thoughts, text and calls of tools are what it generated, wherever a template writes them."""

import numpy as np
import pytest
from made_chats import with_template

from jaxalign.errors import DataError
from jaxalign.text.spans import spans

OPENING = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
CALLS = "{% for c in m.tool_calls or [] %}<call>{{ c }}</call>{% endfor %}<|im_end|>\n{% endfor %}" + OPENING
PLAIN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.reasoning_content %}<think>{{ m.reasoning_content }}"
    "</think>{% endif %}{% if m.content %}{{ m.content }}{% endif %}" + CALLS
)
"""Writes everything that a message says, a content only where there is one."""
LOOKS = PLAIN.replace("{% if m.content %}{{ m.content }}", "{% if m.content %}\n{{ m.content }}\n")
"""Writes around a content what it does not write without one, so that no mark can stand in its place."""
THINKS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% set t = m.reasoning_content or '' %}"
    "{% set c = m.content or '' %}"
    "{% if '</think>' in c %}{% set t = c.split('</think>')[0].split('<think>')[-1] %}"
    "{% set c = c.split('</think>')[-1] %}{% endif %}"
    "{% if m.role == 'assistant' and loop.last %}<think>{{ t }}</think>{% endif %}{{ c }}" + CALLS
)
"""As Qwen3's: thoughts are taken out of contents and written in the last turn alone, there also without any."""
ASKED = {"role": "user", "content": "weather?"}
CALL = {"role": "assistant", "content": "Let me see.", "tool_calls": ["get_weather"]}


def generated(template: str, *messages: dict) -> list[tuple[int, str]]:
    """What the assistant generated: message and text, the token that ends a turn written as "."."""
    found = spans(with_template(template), messages)
    parts: list[tuple[int, str]] = []
    for index in np.flatnonzero(found.generated):
        owner, text = int(found.message[index]), "." if found.ids[index] == 2 else chr(found.ids[index] - 3)
        parts = (
            [*parts[:-1], (owner, parts[-1][1] + text)] if parts and parts[-1][0] == owner else [*parts, (owner, text)]
        )
    return parts


@pytest.mark.parametrize("template", [PLAIN, LOOKS])
def test_a_call_behind_a_text_and_the_end_of_its_turn_are_generated(template):
    found = generated(
        template, ASKED, CALL, {"role": "tool", "content": "rain"}, {"role": "assistant", "content": "Wet"}
    )
    assert [(owner, "".join(text.split())) for owner, text in found] == [
        (1, "Letmesee.<call>get_weather</call>."),
        (3, "Wet."),
    ]


@pytest.mark.parametrize("template", [PLAIN, LOOKS, THINKS])
@pytest.mark.parametrize("content", ["", None])
def test_a_call_without_a_text_is_generated(template, content):
    thought = "<think></think>" if template is THINKS else ""
    assert generated(template, ASKED, {**CALL, "content": content}) == [(1, f"{thought}<call>get_weather</call>.")]


def test_thoughts_are_generated():
    answer = {"role": "assistant", "content": "No.", "reasoning_content": "It rains"}
    assert generated(PLAIN, ASKED, answer) == [(1, "<think>It rains</think>No..")]
    assert generated(THINKS, ASKED, answer) == [(1, "<think>It rains</think>No..")]
    # where the template finds them in the content it writes what the content is
    spelled = {"role": "assistant", "content": "<think>It rains</think>No."}
    assert generated(THINKS, ASKED, spelled) == [(1, "<think>It rains</think>No..")]
    # a block without thoughts stands between the prompt and the answer: it is sampled before the answer can be
    assert generated(THINKS, ASKED, {"role": "assistant", "content": "No."}) == [(1, "<think></think>No..")]


def test_what_a_template_drops_from_earlier_turns_is_not_there():
    turns = [ASKED, {"role": "assistant", "content": "No."}, ASKED, {"role": "assistant", "content": "Yes"}]
    assert generated(THINKS, *turns) == [(1, "No.."), (3, "<think></think>Yes.")]
    for dropped in ({"content": "<think>a</think>No."}, {"content": "No.", "reasoning_content": "a"}):
        with pytest.raises(DataError, match=r"content of message 1 \(assistant\)"):
            generated(THINKS, ASKED, {**turns[1], **dropped}, *turns[2:])


def test_a_block_that_only_earlier_turns_have_is_theirs():
    old = PLAIN.replace(
        "{% if m.content %}", "{% if m.role == 'assistant' and not loop.last %}[old]{% endif %}{% if m.content %}"
    )
    turns = [ASKED, {"role": "assistant", "content": "No."}, ASKED, {"role": "assistant", "content": "Yes"}]
    assert generated(old, *turns) == [(1, "[old]No.."), (3, "Yes.")]


def test_marks_of_the_template_answer_for_contents_that_it_takes_apart():
    marked = THINKS.replace(
        "{% if m.role == 'assistant' and loop.last %}", "{% if m.role == 'assistant' %}{% generation %}"
    )
    marked = marked.replace(
        "</think>{% endif %}{{ c }}",
        "</think>{{ c }}<|im_end|>{% endgeneration %}\n{% else %}{{ c }}<|im_end|>\n{% endif %}",
    )
    marked = marked.replace("{% endfor %}<|im_end|>\n", "{% endfor %}")
    spelled = {"role": "assistant", "content": "<think>a</think>No."}
    assert generated(marked, ASKED, spelled, ASKED, spelled) == [
        (1, "<think>a</think>No.."),
        (3, "<think>a</think>No.."),
    ]


def test_a_turn_that_is_not_written_is_refused():
    with pytest.raises(DataError, match=r"content of message 1 \(assistant\)"):
        generated(PLAIN.replace("{{ m.content }}", "{{ m.content if m.role == 'user' }}"), ASKED, CALL)
