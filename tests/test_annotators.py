"""Annotators: the properties that each one obeys, then values worked out by hand."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_examples import examples, named
from made_oracles import ANSWER, MEMBERS, OTHERS, QUESTION
from made_rollouts import prompt, rollouts

import jaxalign.oracles
from jaxalign.oracles import annotators
from jaxalign.oracles.annotators import (
    Annotator,
    Brevity,
    Completeness,
    Coverage,
    Detail,
    NonRepetition,
    Plainness,
    repeated_share,
)
from jaxalign.oracles.panel import Panel, Weighted
from jaxalign.oracles.words import words

ANNOTATORS = examples(jaxalign.oracles, Annotator, least=6)

DEGENERATE = {
    "empty": "",
    "blank": " \n\t ",
    "echo": QUESTION,
    "double echo": f"{QUESTION} {QUESTION}",
    "echo in capitals": QUESTION.upper(),
    "key words": "Bread rise oven yeast do dough warm bread rise oven yeast dough warm.",
    "one word": "Gas.",
    "one word again and again": "gas " * 25,
    "one sentence again and again": "Yeast is nice. " * 10,
    "punctuation": "." * 40,
    "control characters": "\x00\x01\x02\u200b\ufeff",
    "digits": "1. 2. 3. 4.",
}
SET_PHRASES = {
    "refusal": "I'm sorry, but I cannot help with that.",
    "greeting": "Sure! I would be happy to help you with this. Please let me know if you have any other questions.",
}


@pytest.fixture(params=ANNOTATORS.values(), ids=named)
def annotator(request):
    return request.param


TEXT = st.text(st.characters(codec="utf-16", exclude_categories=())) | st.sampled_from([ANSWER, *OTHERS])


@settings(max_examples=40, deadline=None)
@given(asked=TEXT, texts=st.lists(TEXT, min_size=1, max_size=5), seed=st.integers(0, 100))
def test_scores_are_finite_and_belong_to_the_text_alone(asked, texts, seed):
    for annotator in ANNOTATORS.values():
        together = annotator(prompt(asked), tuple(texts))
        assert together.shape == (len(texts),)
        assert np.isfinite(together).all()
        order = np.random.default_rng(seed).permutation(len(texts))
        np.testing.assert_array_equal(together[order], annotator(prompt(asked), tuple(texts[index] for index in order)))
        np.testing.assert_array_equal(together[:1], annotator(prompt(asked), (texts[0],)))


@pytest.mark.parametrize("bad", DEGENERATE.values(), ids=DEGENERATE.keys())
def test_no_degenerate_answer_beats_a_good_one(annotator, bad):
    good, worse = annotator(prompt(QUESTION), (ANSWER, bad))
    assert good >= worse


@pytest.mark.parametrize("bad", DEGENERATE.values(), ids=DEGENERATE.keys())
def test_a_panel_prefers_a_good_answer_to_a_degenerate_one_clearly(bad, key):
    every = Panel(tuple(Weighted(annotator, 1.0, 0.1) for annotator in ANNOTATORS.values()))
    for panel in (every, Panel(MEMBERS)):
        assert panel(rollouts([[ANSWER, bad]], QUESTION), key).prefer[0, 0, 1] > 0.8


@pytest.mark.parametrize("phrase", SET_PHRASES.values(), ids=SET_PHRASES.keys())
def test_a_panel_prefers_an_answer_to_a_set_phrase(phrase, key):
    assert Panel(MEMBERS)(rollouts([[ANSWER, phrase]], QUESTION), key).prefer[0, 0, 1] > 0.6


def test_names_differ_and_can_be_changed(annotator):
    assert len({other.name for other in ANNOTATORS.values()}) == len(ANNOTATORS)
    assert dataclasses.replace(annotator, name="mine").name == "mine"
    assert hash(annotator) == hash(dataclasses.replace(annotator))


def test_a_huge_text_is_scored_in_reasonable_time(annotator):
    huge = " ".join(f"word{index} is.\n{index % 9}." for index in range(10_000)) + "." * 10_000 + "```" * 2_001
    assert np.isfinite(annotator(prompt(huge), (huge, ANSWER))).all()


def test_every_annotator_satisfies_the_contract(annotator):
    assert isinstance(annotator, annotators.Annotator)
    assert list(getattr(annotator, "problems", list)()) == []


def test_brevity_costs_one_bit_a_doubling_and_wants_something_said():
    said = [" ".join(f"word{index}" for index in range(count)) for count in (12, 24, 48, 6, 3)]
    scores = Brevity(enough=12)(prompt("Why?"), (*said, ""))
    np.testing.assert_allclose(scores[:4], [0, -1, -2, 0])
    np.testing.assert_allclose(scores[4:], [-2 * np.log2(4 / 3), -2 * np.log2(12)])  # 4 own words would be enough


def test_coverage_counts_what_is_taken_up_as_far_as_something_is_said_about_it():
    asked = prompt("What is the capital of France?")  # asked: capital, france
    texts = (
        "Paris, on the Seine, is the capital of France.",  # taken 2, new 2
        "The capital is Paris.",  # taken 1, new 1
        "The capital of France is the capital of France.",  # new 0
        "What is the capital of France?",  # copied whole
        "It is Paris.",  # taken 0
    )
    np.testing.assert_allclose(Coverage()(asked, texts), [1, 0.5, 0, 0, 0])


def test_key_words_wrapped_in_a_sentence_cover_only_what_it_says_itself():
    wrapped = "You want to know about bread, rise, oven, yeast, dough, warm. It is useful and good."
    np.testing.assert_allclose(Coverage()(prompt(QUESTION), (ANSWER, wrapped)), [1, 2 / 6])  # new: want, know


def test_lists_of_key_words_lose_what_prose_would_get():
    prose, salad = "The yeast makes gas in the warm dough.", "Yeast gas bubbles dough warm sugar oven heat crust."
    for annotator in (Coverage(), Detail()):
        assert annotator(prompt(QUESTION), (prose,))[0] > 0
        assert annotator(prompt(QUESTION), (salad,))[0] == 0


def test_other_languages_are_not_judged_as_english_prose():
    asked = prompt("Warum geht Brot im warmen Ofen auf?")
    assert Coverage()(asked, ("Im Ofen dehnt sich Gas aus, darum geht das Brot auf.",))[0] > 0.4


def test_non_repetition_is_one_minus_the_mean_repeated_share():
    spoken = words("one two three four one two three four five")  # 8 bigrams 5 new, 7 trigrams 5 new, 6 fourgrams 5 new
    np.testing.assert_allclose(repeated_share(spoken), np.mean([3 / 8, 2 / 7, 1 / 6]))
    score = NonRepetition(least=5)(prompt("Why?"), (" ".join(spoken),))[0]
    np.testing.assert_allclose(score, 1 - np.mean([3 / 8, 2 / 7, 1 / 6]))


def test_completeness_wants_the_last_sentence_finished():
    texts = (
        "Yeast makes the gas.",
        "Yeast makes the gas. It then goes on and",
        "Yeast makes the gas.\n2.",
        "Run this in a shell:\n```\nprint(1)\n```",
        "Run this in a shell:\n```\nprint(1) done.",
        'She said: "Yeast makes gas."',
    )
    np.testing.assert_allclose(Completeness()(prompt("Why?"), texts), [1, 2 / 9, 0.4, 1, 0, 1])


def test_plainness_is_one_minus_lix():
    text = (
        "Yeast makes the dough rise. Temperature matters enormously in the oven."  # 11 words, 2 sentences, 2 long... 3
    )
    long = sum(len(word) > 6 for word in words(text))
    np.testing.assert_allclose(Plainness()(prompt("Why?"), (text,)), 1 - (11 / 2 + 100 * long / 11) / 100)


@pytest.mark.parametrize(
    "wrong", [Brevity(enough=1), NonRepetition(least=0), Completeness(least=0), Plainness(least=0)], ids=repr
)
def test_options_out_of_range_are_named(wrong):
    (sentence,) = wrong.problems()
    assert "at least" in sentence
    assert "got" in sentence
