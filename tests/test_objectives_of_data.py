"""Labels per objective: ratings by attribute, what follows from answers, scores beside labels, a panel apart."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from made_comparisons import SHARED, pandalm, read, rows, tldr
from made_rollouts import rollouts

from jaxalign.data.comparisons.attributes import Attribute, Attributes
from jaxalign.data.comparisons.by_prompt import ByPrompt
from jaxalign.data.comparisons.derived import Better, Derived, Shorter
from jaxalign.data.comparisons.mixture import Mixture, parts
from jaxalign.data.comparisons.pairs import Pairs
from jaxalign.data.comparisons.scored import FewWords, Scored
from jaxalign.data.tables.inline import Inline
from jaxalign.errors import DataError
from jaxalign.oracles.annotators import Brevity, Coverage
from jaxalign.oracles.label_and_rewards import LabelAndRewards
from jaxalign.oracles.panel import Panel, Weighted
from jaxalign.pairs import AllPairs
from jaxalign.types import Prompt

ASKED = Prompt("here:1", ({"role": "user", "content": "Why?"},))
THREE = (Attribute("helpfulness"), Attribute("verbosity", better="lower", close=1.0), Attribute("meta.odd"))


def rated(*lines: tuple) -> list:
    names = ("prompt", "response", "helpfulness", "verbosity")
    table = Inline(tuple(json.dumps(dict(zip(names, line, strict=True))) for line in lines))
    return read(Attributes(table, THREE))


def test_two_rated_answers_are_a_pair_with_a_vote_of_each_attribute():
    (pair,) = rated(("Why?", "No.", 1, 0), ("Why?", "Because it is so.", 4, 3))
    assert pair.answers == ("No.", "Because it is so.")  # one says this, one that: the file's order stays
    assert (pair.prefer, pair.votes, pair.swapped, pair.weight) == (0.5, (0.0, 1.0, None), False, 1.0)
    (pair,) = rated(("Why?", "No.", 1, 2), ("Why?", "So.", 4, 3))
    assert (pair.answers, pair.prefer, pair.votes, pair.swapped) == (("So.", "No."), 0.75, (1.0, 0.5, None), True)


def test_neighbours_of_one_prompt_are_paired_and_no_others():
    found = rated(("A", "x", 1, 0), ("A", "y", 2, 0), ("A", "z", 3, 0), ("B", "x", 1, 0), ("A", "w", 1, 0))
    assert [one.answers for one in found] == [("y", "x"), ("z", "x"), ("z", "y")]
    assert [one.weight for one in found] == pytest.approx([1 / 3] * 3)


def test_ratings_may_be_absent_but_not_all_of_them():
    (pair,) = rated(("Why?", "No.", None, 1), ("Why?", "So.", 4, 3))
    assert pair.votes == (None, 1.0, None)
    (pair,) = rated(("Why?", "No.", None, 1), ("Why?", "So.", 4, None))
    assert (pair.prefer, pair.votes) == (0.5, (None, None, None))
    with pytest.raises(DataError, match="helpfulness: missing or null, as all ratings are"):
        rated(("Why?", "No.", None, None))
    with pytest.raises(DataError, match="helpfulness: string where a number belongs"):
        rated(("Why?", "No.", "good", 1))


@pytest.mark.parametrize(
    ("objective", "vote"),
    [
        (Shorter(), 1.0),
        (Shorter(by="characters"), 0.0),
        (Shorter(close=0.5), 0.5),
        (Better(FewWords()), 1.0),
        (Better(FewWords(), temperature=2.0), 1 / (1 + np.exp(-0.5))),
    ],
)
def test_objectives_say_the_complement_of_exchanged_answers(objective, vote):
    """One long word against two short ones."""
    assert objective.vote(ASKED, "Incomprehensibilities.", "Oh no.") == pytest.approx(vote)
    assert objective.vote(ASKED, "Oh no.", "Incomprehensibilities.") == pytest.approx(1 - vote)
    assert objective.vote(ASKED, "Oh no.", "Oh so.") == 0.5


PAIR = {"prompt": "Why is the sky blue?", "chosen": "Air scatters blue light most.", "rejected": "No."}


def test_derived_votes_stand_behind_those_of_the_file_and_leave_its_label():
    (plain,) = rows("pairs", PAIR)
    (found,) = read(Derived(Pairs(Inline((json.dumps(PAIR),))), (Shorter(), Better(Brevity()))))
    assert found == dataclasses.replace(plain, votes=(1.0, 0.0, found.votes[2]))
    assert found.votes[2] in (0.0, 0.5, 1.0)


def test_scores_of_a_quality_are_beside_the_label():
    (found,) = read(Scored(Pairs(Inline((json.dumps(PAIR),))), FewWords(), scale=0.5))
    assert (found.scores, found.prefer, found.votes) == ((-2.5, -0.5), 1.0, (1.0,))


class Broken:
    """Forgets the second text."""

    def __call__(self, prompt, texts):
        return np.zeros(1)


def test_a_quality_that_does_not_score_is_named_with_the_row():
    source = Pairs(Inline((json.dumps(PAIR),)))
    for made in (Scored(source, Broken()), Derived(source, (Better(Broken()),))):
        with pytest.raises(DataError, match=r"1: Broken must give a finite score a text, 2 in all"):
            read(made)


def test_a_mixture_of_derived_sources_keeps_its_shares():
    """Wrappers are put around the parts, so that an epoch has each in its share."""
    source = Pairs(Inline((json.dumps(PAIR),)))
    found = parts(ByPrompt(Derived(Mixture((source, source), (3.0, 1.0))), 0.0, 1.0))
    assert [share for share, _ in found] == [3.0, 1.0]
    assert found[0][1] == ByPrompt(Derived(source), 0.0, 1.0)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the public data sets are not in {SHARED}")
def test_real_pairs_have_their_three_people_and_brevity_besides():
    people, tied = read(pandalm()), 0
    for one in people:
        assert len(one.votes) == 3
        tied += sum(vote == 0.5 for vote in one.votes)
    assert tied > 0
    found = read(Derived(tldr()))
    shorter = [one.votes[1] for one in found]
    assert all(
        vote == float(len(one.answers[0].split()) < len(one.answers[1].split())) or vote == 0.5
        for vote, one in zip(shorter, found, strict=True)
    )
    # the judge likes the longer summary more often than not: the objectives are at odds
    assert np.mean([vote for vote in shorter if vote != 0.5]) < 0.5


PANEL = Panel((Weighted(Brevity(), 1.0, 0.1), Weighted(Coverage(), 3.0, 0.05)))
ANSWERS = rollouts(
    [["Bread rises.", "Yeast makes gas in the dough, and so the bread rises."]], ["Why does bread rise?"]
)


def test_one_annotator_labels_and_the_others_are_rewards():
    said = PANEL(ANSWERS, jax.random.key(0))
    for index, label in enumerate(PANEL.names):
        oracle = LabelAndRewards(PANEL, label, scale=2.0)
        found = oracle(ANSWERS, jax.random.key(0))
        assert (found.annotators, oracle.names, found.weights) == ((label,), (label,), (1.0,))
        np.testing.assert_array_equal(found.prefer, said.by_annotator[:, index])
        np.testing.assert_allclose(found.scores[:, 0], 2 * said.scores[:, 1 - index])
        groups = AllPairs()(ANSWERS, found, jax.random.key(1))
        np.testing.assert_allclose(groups.labels.score, found.scores[0, 0][groups.responses], rtol=1e-6)
    assert list(LabelAndRewards(PANEL, "truth").problems()) == ["label 'truth' is none of brevity, coverage"]
    alone = Panel((Weighted(Brevity(), temperature=0.1),))
    assert "no annotator beside the label's" in "".join(LabelAndRewards(alone, "brevity").problems())


def test_the_others_must_score_and_weigh_something():
    unheard = Panel((Weighted(Brevity(), 1.0, 0.1), Weighted(Coverage(), 0.0, 0.05)))
    with pytest.raises(DataError, match="beside 'brevity' weigh nothing"):
        LabelAndRewards(unheard, "brevity")(ANSWERS, jax.random.key(0))
