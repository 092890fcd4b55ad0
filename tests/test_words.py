"""Words, stems and sentences of a text, by hand."""

import pytest

from jaxalign.oracles.words import content_stems, finished_part, own_words, sentences, stem, words


def test_words_of_any_script():
    assert words("It's 3.5 km — don’t! naïve") == ("it's", "3", "5", "km", "don't", "naïve")
    assert words("東京 tower") == ("東", "京", "tower")
    assert words("ＡＢＣ") == ("abc",)
    assert words("!?") == ()


@pytest.mark.parametrize(
    "family", [("plan", "plans", "planning", "planned"), ("study", "studies", "studied"), ("bake", "baking", "baked")]
)
def test_stems_join_inflections(family):
    assert len({stem(word) for word in family}) == 1


def test_stems_keep_short_words_and_leave_function_words_out():
    assert [stem(word) for word in ("bus", "thing", "is", "glass")] == ["bus", "thing", "is", "glass"]
    assert content_stems(words("What is it that you don't see?")) == ("see",)


def test_own_words_are_those_outside_copied_runs():
    assert own_words("a b c d e", "x b c d y", 3) == ("a", "e")
    assert own_words("a b c d e", "x b c y", 3) == ("a", "b", "c", "d", "e")
    assert own_words("say hi there", "hi", 3) == ("say", "there")
    assert own_words("a b", "", 3) == ("a", "b")


def test_finished_part_ends_with_a_sentence_or_a_closed_block():
    assert finished_part("One. Two! Thr") == "One. Two!"
    assert finished_part("Costs 3.5 euros") == ""
    assert finished_part("One (two.) three") == "One (two.)"
    assert finished_part("終わり。つづ") == "終わり。"


def test_sentences_end_with_a_stop_or_a_line_and_have_words():
    assert sentences("One. Two!\n- three\n\n4 (") == ("One.", " Two!", "- three\n", "4 (")
    assert sentences(" ... \n") == ()
