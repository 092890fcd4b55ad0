"""Oracles and annotators: the properties each one obeys, discovered per file, then values worked out by hand."""

import dataclasses
import importlib
import inspect
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_rollouts import permuted, prompt, rollouts

import jaxalign.oracles
from jaxalign.errors import ConfigError, DataError
from jaxalign.evals.cycles import cycle_metrics
from jaxalign.evals.nash_gap import duality_gap
from jaxalign.games.universal import majority, robust_win_rate
from jaxalign.oracles import annotators
from jaxalign.oracles.annotators import (
    Brevity,
    Completeness,
    Coverage,
    Detail,
    NonRepetition,
    Plainness,
    repeated_share,
)
from jaxalign.oracles.learned import PreferenceModel, RewardModel
from jaxalign.oracles.panel import Panel, Weighted, advantages, probabilities
from jaxalign.oracles.population import RankingPopulation
from jaxalign.oracles.tabular import THREE_ACTION, TabularGame
from jaxalign.oracles.words import content_stems, finished_part, own_words, sentences, stem, words
from jaxalign.types import Preferences

QUESTION = "Why does bread rise in the oven, and what does the yeast do while the dough is warm?"
ANSWER = (
    "Yeast eats sugar in the warm dough and breathes out gas. The gas is trapped in small bubbles, and the heat of the "
    "oven makes them grow, so the bread rises."
)
OTHERS = (
    "The yeast makes gas bubbles that lift the dough.",
    "Bread rises because bread rises because bread rises because bread rises and that is why bread rises.",
    "When the dough is warm, yeast turns sugar into carbon dioxide, and in the oven the gas expands until the crust "
    "sets and then",
    "Heat.",
    "",
)
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

MEMBERS = (
    Weighted(Brevity(), 1.0, 0.1),
    Weighted(Coverage(), 1.0, 0.05),
    Weighted(Completeness(), 1.0, 0.1),
)
"""Short, to the point and finished: each can be had without the others, all three only by answering."""
POPULATION = RankingPopulation(((2, 1, 0), (0, 2, 1), (1, 0, 2)), (0.5, 0.3, 0.2), k=2)
ORACLES = {Panel: Panel(MEMBERS), RankingPopulation: POPULATION, TabularGame: TabularGame()}
ANNOTATORS = {cls: cls() for cls in (Brevity, Completeness, Coverage, Detail, NonRepetition, Plainness)}
LEARNED = {PreferenceModel, RewardModel}
"""Judges read from files have tests of their own (test_heads)."""


def discovered(argument: str) -> set[type]:
    """Classes of the oracles' modules whose call takes `argument`; contracts are left out."""
    found = set()
    for module in pkgutil.iter_modules(jaxalign.oracles.__path__, "jaxalign.oracles."):
        for _, cls in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            own = cls.__module__ == module.name and dataclasses.is_dataclass(cls) and "__call__" in vars(cls)
            if own and argument in inspect.signature(cls.__call__).parameters:
                found.add(cls)
    return found


def test_discovery_finds_the_oracles_and_annotators_and_each_has_an_example():
    oracles, scorers = discovered("rollouts"), discovered("texts")
    print("oracles:", sorted(cls.__name__ for cls in oracles), "annotators:", sorted(cls.__name__ for cls in scorers))
    assert len(oracles) >= 3
    assert len(scorers) >= 6
    assert oracles - LEARNED == set(ORACLES)
    assert scorers - LEARNED == set(ANNOTATORS)


@pytest.fixture(params=ORACLES.values(), ids=lambda oracle: type(oracle).__name__)
def oracle(request):
    return request.param


@pytest.fixture(params=ANNOTATORS.values(), ids=lambda annotator: type(annotator).__name__)
def annotator(request):
    return request.param


def three_answers(count: int = 4, seed: int = 0):
    """Three answers a prompt, drawn from the pool above, tokens 0, 1, 2 in varying order, then what follows them."""
    rng = np.random.default_rng(seed)
    pool = [ANSWER, *OTHERS]
    texts = [[pool[index] for index in rng.integers(len(pool), size=3)] for _ in range(count)]
    tokens = np.stack([rng.permutation(3) for _ in range(count)])[:, :, None].astype(np.int32)
    return rollouts(
        texts, QUESTION, tokens=np.concatenate([tokens, tokens * 0], -1), lengths=np.ones((count, 3), np.int32)
    )


# ----------------------------------------------------------------------------------------------------------------------
# Every oracle


def equal(left: Preferences, right: Preferences) -> None:
    assert left.annotators == right.annotators
    for name in ("prefer", "by_annotator", "scores"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))


def test_probabilities_complement_each_other_exactly(oracle, key):
    given_rollouts = three_answers()
    answer = oracle(given_rollouts, key)
    assert answer.prefer.shape == (4, 3, 3)
    assert answer.by_annotator.shape == (len(answer.annotators), 4, 3, 3)
    assert answer.scores.shape == (len(answer.annotators), 4, 3)
    for table in (answer.prefer, *answer.by_annotator):
        assert table.dtype == np.float32
        assert ((table >= 0) & (table <= 1)).all()
        np.testing.assert_array_equal(table + table.swapaxes(1, 2), np.ones_like(table))
        np.testing.assert_array_equal(np.diagonal(table, axis1=1, axis2=2), np.full((4, 3), 0.5, np.float32))


def test_order_of_responses_only_reorders_the_answer(oracle, key):
    order = [2, 0, 1]
    straight, turned = oracle(three_answers(), key), oracle(permuted(three_answers(), order), key)
    np.testing.assert_array_equal(straight.prefer[:, order][:, :, order], turned.prefer)
    np.testing.assert_array_equal(straight.by_annotator[:, :, order][:, :, :, order], turned.by_annotator)
    np.testing.assert_array_equal(straight.scores[:, :, order], turned.scores)


def test_same_rollouts_and_key_give_the_same_answer(oracle, key):
    equal(oracle(three_answers(), key), oracle(three_answers(), jax.random.clone(key)))


def test_padding_changes_nothing(oracle, key):
    plain = three_answers()
    rubbish = np.pad(plain.tokens, ((0, 0), (0, 0), (0, 3)), constant_values=77)
    rubbish[:, :, 1] = 99
    padded = dataclasses.replace(
        plain,
        tokens=rubbish,
        logps=np.full(rubbish.shape, np.nan, np.float32),
        prompt_tokens=np.pad(plain.prompt_tokens, ((0, 0), (0, 5)), constant_values=9),
    )
    equal(oracle(plain, key), oracle(padded, key))


def test_a_prompt_is_judged_by_itself(oracle, key):
    whole = three_answers()
    alone = rollouts(whole.texts[2:3], QUESTION, tokens=whole.tokens[2:3], lengths=whole.lengths[2:3])
    np.testing.assert_array_equal(oracle(whole, key).prefer[2:3], oracle(alone, key).prefer)


def test_equal_oracles_are_equal_values(oracle):
    assert hash(oracle) == hash(dataclasses.replace(oracle))
    assert oracle == dataclasses.replace(oracle)
    assert list(oracle.problems()) == []


# ----------------------------------------------------------------------------------------------------------------------
# Every annotator


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


# ----------------------------------------------------------------------------------------------------------------------
# Annotators, by hand


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


@pytest.mark.parametrize(
    "wrong", [Brevity(enough=1), NonRepetition(least=0), Completeness(least=0), Plainness(least=0)], ids=repr
)
def test_options_out_of_range_are_named(wrong):
    (sentence,) = wrong.problems()
    assert "at least" in sentence
    assert "got" in sentence


# ----------------------------------------------------------------------------------------------------------------------
# The panel


@dataclasses.dataclass(frozen=True)
class Table:
    """Annotator that looks its scores up."""

    scores: tuple[float, ...]
    name: str = "table"

    def __call__(self, asked, texts):
        return np.array(self.scores)


def vote(*members: tuple[tuple[float, ...], float, float], names: str = "abcdefgh") -> Panel:
    """A panel of tables: (scores, weight, temperature) each."""
    return Panel(tuple(Weighted(Table(row, name), w, t) for name, (row, w, t) in zip(names, members, strict=False)))


def judged(panel: Panel, samples: int) -> Preferences:
    return panel(rollouts([[str(index) for index in range(samples)]]), jax.random.key(0))


def test_preference_is_the_sigmoid_of_the_score_difference_over_the_temperature():
    answer = judged(vote(((0.0, 1.0, 3.0), 1.0, 2.0)), 3)
    np.testing.assert_allclose(answer.prefer[0, 1, 0], 1 / (1 + np.exp(-0.5)), rtol=1e-7)
    np.testing.assert_allclose(answer.prefer[0, 0, 2], 1 / (1 + np.exp(1.5)), rtol=1e-6)  # 1 - fp32 of the winner's


def test_the_panel_is_the_weighted_mean_of_its_annotators_and_weights_are_normalised():
    members = (((0.0, 1.0), 2.0, 1.0), ((1.0, 0.0), 6.0, 0.5))
    answer = judged(vote(*members), 2)
    expected = (2 * answer.by_annotator[0] + 6 * answer.by_annotator[1]) / 8
    np.testing.assert_allclose(answer.prefer, expected, atol=1e-7)  # one rounding to fp32
    scaled = judged(vote(*((row, w * 64, t) for row, w, t in members)), 2)
    np.testing.assert_array_equal(answer.prefer, scaled.prefer)


def test_temperature_zero_is_a_hard_vote_with_ties():
    answer = judged(vote(((1.0, 1.0, 1.0 + 1e-12), 1.0, 0.0)), 3)
    np.testing.assert_array_equal(answer.prefer[0, 0], np.float32([0.5, 0.5, 0.0]))


def test_scores_as_far_apart_as_floats_go_are_certain():
    answer = judged(vote(((1e308, -1e308, 5e-324), 1.0, 1e-300)), 3)
    np.testing.assert_array_equal(answer.prefer[0], np.float32([[0.5, 1, 1], [0, 0.5, 0], [0, 1, 0.5]]))


def test_three_hard_votes_cycle():
    answer = judged(vote(((3.0, 2.0, 1.0), 1.0, 0.0), ((1.0, 3.0, 2.0), 1.0, 0.0), ((2.0, 1.0, 3.0), 1.0, 0.0)), 3)
    assert cycle_metrics(answer.prefer)["cycles/cyclic_triples"] == 1.0
    for table in answer.by_annotator:
        assert cycle_metrics(table)["cycles/cyclic_triples"] == 0.0


def cyclic_panels(first: float, second: float, panels: int = 1000) -> int:
    """How many random panels of two annotators with six responses have a cycle in their majority."""
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 2, (2, panels, 6))
    answer = vote(((), first, 1.0), ((), second, 1.0)).preferences(scores)
    return sum(cycle_metrics(table[None])["cycles/cyclic_triples"] > 0 for table in answer.prefer)


def test_two_annotators_of_equal_weight_never_cycle_and_of_unequal_weight_do():
    assert cyclic_panels(0.5, 0.5) == 0
    assert cyclic_panels(0.6, 0.4) > 10  # 5 % of them have a cycle


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=4), min_size=1, max_size=4),
    temperature=st.floats(0, 10),
)
def test_complements_and_order_are_exact_for_any_scores(rows, temperature):
    panel = vote(*((tuple(row), 1.0 + index / 3, temperature) for index, row in enumerate(rows)))
    table = np.array(rows)[:, None]
    answer, order = panel.preferences(table), [3, 1, 0, 2]
    np.testing.assert_array_equal(answer.prefer + answer.prefer.swapaxes(1, 2), np.ones((1, 4, 4), np.float32))
    turned = panel.preferences(table[:, :, order])
    np.testing.assert_array_equal(answer.prefer[:, order][:, :, order], turned.prefer)


def test_advantage_and_probability_are_monotone_in_the_score():
    scores = np.linspace(-30, 30, 121)[None]
    table = probabilities(advantages(scores, 0.7))[0, :, 60]
    assert (np.diff(table) >= 0).all()
    assert table[0] == 0.0
    assert table[-1] == 1.0


def test_two_policies_are_compared_through_one_call(key):
    """P between answers does not depend on which other answers are judged beside them."""
    panel = Panel(MEMBERS)
    both = panel(rollouts([[ANSWER, *OTHERS]], QUESTION), key).prefer
    pair = panel(rollouts([[ANSWER, OTHERS[2]]], QUESTION), key).prefer
    assert both[0, 0, 3] == pair[0, 0, 1]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_no_number_names_annotator_prompt_and_response(bad):
    with pytest.raises(DataError, match=r"'b'.*response 1.*'p0'"):
        judged(vote(((0.0, 1.0), 1.0, 1.0), ((0.0, bad), 1.0, 1.0)), 2)


def test_scores_of_the_wrong_number_name_the_annotator():
    with pytest.raises(ConfigError, match=r"'a'.*2 in all.*\(3,\)"):
        judged(vote(((0.0, 1.0, 2.0), 1.0, 1.0)), 2)


def test_options_of_the_panel_are_checked():
    assert list(Panel(()).problems()) == ["annotators must name at least one annotator"]
    (twice,) = Panel((Weighted(Brevity()), Weighted(Brevity(enough=20)))).problems()
    assert "'brevity' 2 times" in twice
    for weight, temperature in ((0.0, 1.0), (-1.0, 1.0), (float("nan"), 1.0), (float("inf"), 1.0)):
        assert "weight must be positive" in next(iter(Weighted(Brevity(), weight, temperature).problems()))
    for temperature in (-1.0, float("nan"), float("inf")):
        assert "temperature must be at least 0" in next(iter(Weighted(Brevity(), 1.0, temperature).problems()))
    assert list(Weighted(Brevity()).problems()) == []


def test_every_annotator_satisfies_the_contract(annotator):
    assert isinstance(annotator, annotators.Annotator)
    assert list(getattr(annotator, "problems", list)()) == []


# ----------------------------------------------------------------------------------------------------------------------
# The tabular game


def test_actions_are_looked_up(key):
    tokens = np.array([[[2], [0], [1], [0]]], np.int32)
    answer = TabularGame()(rollouts([list("caba")], tokens=tokens), key)
    expected = np.array(THREE_ACTION)[np.ix_([2, 0, 1, 0], [2, 0, 1, 0])]
    np.testing.assert_allclose(answer.prefer[0], expected, atol=6e-8)  # fp32
    assert cycle_metrics(answer.prefer[:, :3, :3])["cycles/cyclic_triples"] == 1.0


def test_a_token_that_is_no_action_names_prompt_and_response(key):
    with pytest.raises(DataError, match=r"response 1 of prompt 'p0' is token 3, not one of the game's 3 actions"):
        TabularGame()(rollouts([["a", "d"]], tokens=np.array([[[0], [3]]], np.int32)), key)
    with pytest.raises(DataError, match="response 0"):
        TabularGame()(rollouts([["", "a"]], lengths=np.array([[0, 1]], np.int32)), key)


@pytest.mark.parametrize(
    ("matrix", "named"),
    [
        ((), "at least one action"),
        (((0.5, 0.5), (0.5,)), "row 1 has 1 cells of 2"),
        (((0.4,),), r"matrix\[0\]\[0\] = 0.4 must be 0.5"),
        (((0.5, 0.7), (0.2, 0.5)), r"matrix\[0\]\[1\] \+ matrix\[1\]\[0\] = 0.7 \+ 0.2 must be 1"),
        (((0.5, 1.2), (-0.2, 0.5)), r"matrix\[0\]\[1\] = 1.2 .* must lie in \[0, 1\]"),
        (((0.5, float("nan")), (0.5, 0.5)), "must lie in"),
    ],
)
def test_a_matrix_that_is_no_game_names_the_cell(matrix, named):
    import re

    assert any(re.search(named, sentence) for sentence in TabularGame(matrix).problems())


# ----------------------------------------------------------------------------------------------------------------------
# The population that picks one of k + 1 answers


def test_a_population_prefers_what_it_picks_more_often_over_k_samples(key):
    """The gap of its preferences is what the policy's k samples lack of k / (k + 1)."""
    tokens, weights = np.array([[[0], [1], [2]]], np.int32), np.array([[0.2, 0.5, 0.3]], np.float32)
    answer = POPULATION(rollouts([list("abc")], tokens=tokens, weights=weights), key)
    game = POPULATION.game()
    gain = np.asarray(game.gain(jnp.asarray(weights[0])))
    np.testing.assert_allclose(answer.prefer[0] - 0.5, (gain[:, None] - gain[None]) / 2, atol=1e-6)
    lacking = 2 / 3 - float(robust_win_rate(game, jnp.log(jnp.asarray(weights[0]))))
    np.testing.assert_allclose(duality_gap(answer.prefer, weights)[0], lacking, atol=1e-6)


def test_of_one_sample_a_population_is_its_majority(key):
    tokens = np.array([[[2], [0], [2], [1]]], np.int32)
    one = dataclasses.replace(POPULATION, k=1)
    found = one(rollouts([list("caxb")], tokens=tokens), key)
    mass = np.array([0.25, 0.25, 0.5])
    win = majority(*one.users()) @ mass
    expected = 0.5 + (win[[2, 0, 2, 1]][:, None] - win[[2, 0, 2, 1]]) / 2
    np.testing.assert_allclose(found.prefer[0], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rankings": ()}, "at least one user"),
        ({"rankings": ((1, 2), (2, 1), (1, 2))}, "every action 0, 1"),
        ({"rankings": ((2, 1, 0), (0, 2, 2), (1, 0, 2))}, r"rankings\[1\]"),
        ({"weights": (0.5, 0.5)}, "3 rankings and 2 weights"),
        ({"weights": (0.5, 0.5, 0.1)}, "sum to 1"),
        ({"weights": (1.5, -0.6, 0.1)}, "positive"),
        ({"k": 0}, r"k must lie in \[1, 63\]"),
    ],
)
def test_an_impossible_population_is_named(changes, named):
    import re

    assert any(re.search(named, sentence) for sentence in dataclasses.replace(POPULATION, **changes).problems())
