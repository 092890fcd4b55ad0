"""The rubric of judges that are language models: what they are shown, and what is made of what they say."""

import dataclasses
import math

import numpy as np
import pytest
from made_rollouts import permuted, prompt, rollouts

from jaxalign.oracles.rubric import EMPTY, Question, Rubric, compared, first_is_better, questions
from jaxalign.types import Prompt

RUBRIC = Rubric()


def text_of(first: str, second: str, rubric: Rubric = RUBRIC) -> str:
    return rubric.messages(prompt("Why is the sky blue?"), first, second)[-1]["content"]


# ----------------------------------------------------------------------------------------------------------------------
# What a judge is shown


def test_a_judge_sees_the_instruction_and_both_answers_once_in_the_order_given():
    text = text_of("Because of air.", "It is not.")
    assert all(text.count(part) == 1 for part in ("Why is the sky blue?", "Because of air.", "It is not."))
    assert text.index("# Answer (a)\nBecause of air.") < text.index("# Answer (b)\nIt is not.")
    assert "{" not in text


def test_the_other_order_only_exchanges_the_answers():
    turned = text_of("<other>", "<one>").replace("<one>", "<>").replace("<other>", "<one>").replace("<>", "<other>")
    assert turned == text_of("<one>", "<other>")


def test_braces_in_answers_stay_what_they_are():
    text = text_of("see {second} and {0!r} {", "f'{x}' {{}}")
    assert "# Answer (a)\nsee {second} and {0!r} {\n" in text
    assert "# Answer (b)\nf'{x}' {{}}\n" in text


def test_an_empty_answer_is_named():
    assert text_of(" \n", "yes").count(EMPTY) == 1
    assert EMPTY not in text_of("no", "yes")


def test_of_a_conversation_every_turn_is_shown_with_its_role():
    turns = (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Why?"},
    )
    text = RUBRIC.messages(Prompt("p", turns), "x", "y")[0]["content"]
    assert "[system]\nBe brief.\n\n[user]\nHi\n\n[assistant]\nHello.\n\n[user]\nWhy?" in text


def test_a_system_message_comes_first():
    first, second = dataclasses.replace(RUBRIC, system="You are a judge.").messages(prompt("Why?"), "x", "y")
    assert first == {"role": "system", "content": "You are a judge."}
    assert second["role"] == "user"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"template": "{instruction} {first}"}, "template lacks {second}"),
        ({"template": "{instruction} {first} {second} {third}"}, "template names {third}, which are not known"),
        ({"template": "{instruction} {first} {second} }"}, "template is none: Single '}'"),
        ({"labels": ("a", "A")}, "labels must be two different words"),
        ({"labels": ("(a)", "(b)")}, "labels must be two different words"),
    ],
)
def test_settings_that_no_judge_could_be_asked_with_are_problems(changes, sentence):
    (problem,) = dataclasses.replace(RUBRIC, **changes).problems()
    assert sentence in problem
    assert list(RUBRIC.problems()) == []


# ----------------------------------------------------------------------------------------------------------------------
# What a judge says


@pytest.mark.parametrize(
    ("reply", "named"),
    [
        ("Answer (a)", (0, 8)),
        ("Answer (b)", (1, 8)),
        ("a", (0, 0)),
        (" B.", (1, 1)),
        ("(b", (1, 1)),
        ("**Answer (B)**", (1, 10)),
        ("answer: b", (1, 8)),
        ("A better one is (b).", (1, 17)),
        ("Answer (a) is better. Answer (a)", (0, 8)),
        ("Answer (a) is worse than answer (b)", None),
        ("A better one there is not", None),
        ("Both", None),
        ("ab", None),
        ("", None),
        ("\ufffd\x00 {", None),
    ],
)
def test_a_reply_names_a_label_or_nothing(reply, named):
    assert RUBRIC.named(reply) == named


def test_labels_are_settings():
    numbered = dataclasses.replace(RUBRIC, labels=("1", "2"), opening="Output (")
    assert numbered.named("Output (2)") == (1, 8)
    assert numbered.named("output 1") == (0, 7)
    assert numbered.named("Answer (a)") is None
    assert "# Answer (2)" in text_of("x", "y", numbered)


def test_ways_to_write_a_label_add_up():
    tokens = {"a": 0.5, " A": 0.125, "(b": 0.25, "c": 0.1, "ab": 0.025}
    logps = RUBRIC.label_logps({text: math.log(p) for text, p in tokens.items()})
    np.testing.assert_allclose(np.exp(logps), [0.625, 0.25], rtol=1e-12)


def test_a_label_that_is_not_listed_has_no_probability():
    np.testing.assert_array_equal(RUBRIC.label_logps({"b": -0.5, "x": -1.0}), [-np.inf, -0.5])


def test_probability_of_the_first_by_hand():
    shares = [[0.6, 0.2], [0.1, 0.3], [0.25, 0.25], [0.5, 0.0], [0.0, 1e-9], [0.0, 0.0]]
    with np.errstate(divide="ignore"):
        logps = np.log(shares)
    found = first_is_better(logps)
    np.testing.assert_allclose(found[:5], [0.75, 0.25, 0.5, 1.0, 0.0], rtol=1e-12)
    assert np.isnan(found[5])


@pytest.mark.parametrize(
    "logps", [(np.nan, -1.0), (-1.0, np.nan), (np.inf, -1.0), (-np.inf, -np.inf), (np.inf, np.inf)]
)
def test_what_is_no_log_prob_says_nothing(logps):
    assert np.isnan(first_is_better(np.array([logps]))).all()


# ----------------------------------------------------------------------------------------------------------------------
# All comparisons


def test_each_pair_of_different_answers_is_asked_once():
    made = rollouts([["x", "y", "x"], ["z", "z", "z"], ["c", "a", "b"]])
    assert questions(made) == (
        Question(0, "x", "y"),
        Question(2, "a", "b"),
        Question(2, "a", "c"),
        Question(2, "b", "c"),
    )


def test_preferences_of_both_orders_by_hand():
    made = rollouts([["y", "x", "y"], ["z", "z", "z"]])
    prefer, notes = compared(made, questions(made), np.array([0.9]), np.array([0.3]))
    # x shown first: x at 0.9; y shown first: y at 0.3, so x at 0.7. Together 0.8.
    expected = [[0.5, 0.2, 0.5], [0.8, 0.5, 0.8], [0.5, 0.2, 0.5]]
    np.testing.assert_allclose(prefer, [expected, np.full((3, 3), 0.5)], atol=1e-7)
    assert {name: values.tolist() for name, values in notes.items()} == {
        "comparisons": [1, 0],
        "unparsed": [0, 0],
        "orders_disagree": [0, 0],
        "position_bias": [pytest.approx(0.1), 0],
        "empty_answers": [0, 0],
    }


@pytest.mark.parametrize(
    ("straight", "turned", "prefer", "unparsed", "disagree", "bias"),
    [
        (1.0, 0.0, 1.0, 0, 0, 0.0),
        (1.0, 1.0, 0.5, 0, 1, 0.5),
        (0.0, 0.0, 0.5, 0, 1, -0.5),
        (np.nan, 0.0, 0.75, 1, 0, -0.5),
        (1.0, np.nan, 0.75, 1, 0, 0.5),
        (np.nan, np.nan, 0.5, 2, 0, 0.0),
        (0.5, 0.5, 0.5, 0, 0, 0.0),
    ],
)
def test_what_a_judge_contradicts_or_does_not_say_is_noted(straight, turned, prefer, unparsed, disagree, bias):
    made = rollouts([["x", "y"]])
    found, notes = compared(made, questions(made), np.array([straight]), np.array([turned]))
    assert found[0, 0, 1] == np.float32(prefer)
    assert (notes["unparsed"][0], notes["orders_disagree"][0], notes["position_bias"][0]) == (unparsed, disagree, bias)


def test_a_judge_that_only_sees_the_place_prefers_nothing():
    made = rollouts([["w", "x", "y", ""]])
    count = len(questions(made))
    found, notes = compared(made, questions(made), np.full(count, 0.875), np.full(count, 0.875))
    np.testing.assert_array_equal(found, np.full((1, 4, 4), 0.5))
    assert notes["orders_disagree"].tolist() == [6]
    assert notes["position_bias"].tolist() == [6 * 0.375]
    assert notes["empty_answers"].tolist() == [1]


def test_probabilities_complement_and_follow_the_order_of_responses():
    made = rollouts([["x", "y", "z", "x"], ["u", "", "w", "v"]])
    asked = questions(made)
    rng = np.random.default_rng(0)
    straight, turned = rng.uniform(size=(2, len(asked)))
    found, notes = compared(made, asked, straight, turned)
    np.testing.assert_array_equal(found + found.swapaxes(1, 2), np.ones_like(found))
    assert found[0, 0, 3] == 0.5
    order = [2, 0, 3, 1]
    other, noted = compared(permuted(made, order), asked, straight, turned)
    np.testing.assert_array_equal(found[:, order][:, :, order], other)
    assert all((notes[name] == noted[name]).all() for name in notes)


def test_nothing_is_asked_of_answers_that_are_all_alike():
    made = rollouts([["x", "x"]])
    found, notes = compared(made, questions(made), np.zeros(0), np.zeros(0))
    np.testing.assert_array_equal(found, np.full((1, 2, 2), 0.5))
    assert notes["comparisons"].tolist() == [0]
