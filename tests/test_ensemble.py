"""Ensembles of annotators: their mean, what their doubt costs, and members that hold weights."""

import numpy as np
import pytest
from made_judges import judge_directory
from made_models import ONE
from made_rollouts import rollouts

from jaxalign.contracts.scope import Site
from jaxalign.mesh.sharding import RULES
from jaxalign.oracles.annotators import Brevity, Coverage
from jaxalign.oracles.ensemble import EXAMPLE, Ensemble
from jaxalign.oracles.learned import RewardModel
from jaxalign.oracles.panel import Panel, Weighted

SITE = Site(ONE, RULES, None, 4)
GIVEN = rollouts([["one two three four", "one"], ["yes", " ".join(["no"] * 40)]])


def test_the_mean_of_its_members_less_their_doubt():
    with Ensemble(EXAMPLE.members).open(SITE) as plain, EXAMPLE.open(SITE) as careful:
        mean, less = plain.block(GIVEN), careful.block(GIVEN)
    each = np.array(
        [[member(p, t) for p, t in zip(GIVEN.prompts, GIVEN.texts, strict=True)] for member in EXAMPLE.members]
    )
    np.testing.assert_allclose(mean.values, each.mean(0), rtol=1e-6)
    np.testing.assert_allclose(less.values, each.mean(0) - 0.5 * each.std(0), rtol=1e-6)
    np.testing.assert_allclose(less.notes["spread"], each.std(0).mean(1), rtol=1e-6)
    assert less.notes["spread"].max() > 0


def test_members_that_agree_are_as_one(key):
    twice = Ensemble((Coverage(name="a"), Coverage(name="b")), caution=3.0)
    with Panel((Weighted(twice),)).open(SITE) as panel:
        found = panel(GIVEN, key)
    np.testing.assert_allclose(found.prefer, Panel((Weighted(Coverage()),))(GIVEN, key).prefer, rtol=1e-6)
    np.testing.assert_array_equal(found.notes["ensemble/spread"], 0.0)


def test_reward_models_are_opened_together(tmp_path, key):
    paths = [judge_directory(tmp_path / str(seed), 1, seed) for seed in range(2)]
    both = Ensemble(tuple(RewardModel(str(path), name=path.name) for path in paths))
    with both.open(SITE) as judge:
        found = judge.block(GIVEN)
    alone = []
    for member in both.members:
        with member.open(SITE) as one:
            alone.append(one.block(GIVEN).values)
    np.testing.assert_allclose(found.values, np.mean(alone, 0), rtol=1e-5)
    assert set(found.notes) == {"0/cut", "1/cut", "spread"}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (Ensemble((Brevity(),)), "at least two"),
        (Ensemble((Brevity(), Coverage()), caution=-1.0), "caution must be at least 0"),
        (Ensemble((Brevity(), Brevity())), "different names, got 'brevity' 2 times"),
    ],
)
def test_what_is_no_ensemble_is_told(wrong, says):
    (sentence,) = wrong.problems()
    assert says in sentence
