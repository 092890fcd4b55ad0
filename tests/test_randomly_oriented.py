"""The control whose pairs are turned at random: a preference of the same strength, without what the oracle likes."""

import dataclasses

import jax
import numpy as np
import pytest
from made_judges import SITE, judge_directory
from made_rollouts import permuted, random_prefer, rollouts
from made_runs import lines_of, run_here, same_when_stopped, tiny_lm

from jaxalign.config.load import validate
from jaxalign.contracts.scope import opened
from jaxalign.errors import ConfigError
from jaxalign.evals.judges_apart import JudgesApart
from jaxalign.evals.win_rate import WinRate
from jaxalign.experiment import Experiment
from jaxalign.feedback.sampled import Sampled
from jaxalign.oracles.learned import RewardModel
from jaxalign.oracles.panel import Panel, Weighted
from jaxalign.oracles.randomly_oriented import RandomlyOriented, turned
from jaxalign.storage.rundir import read_run
from jaxalign.types import Groups, Preferences, Prompt, Rollouts

KEY = jax.random.key(0)
ASKED = Prompt("p0", ({"role": "user", "content": "Why?"},))


@dataclasses.dataclass(frozen=True)
class Said:
    """An oracle of two annotators that says what it was given, and scores."""

    seed: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        return ("one", "other")

    def __call__(self, rollouts: Rollouts, key: jax.Array) -> Preferences:
        rng, (count, samples) = np.random.default_rng(self.seed), rollouts.lengths.shape
        each = np.stack([random_prefer(rng, count, samples) for _ in self.names], 1)
        scores = np.zeros((count, 2, samples), np.float32)
        return Preferences(self.names, (0.5, 0.5), each[:, 0], each, scores)


def answers(count: int = 40, samples: int = 8) -> Rollouts:
    return rollouts([[f"answer {prompt} {sample}" for sample in range(samples)] for prompt in range(count)])


def test_every_pair_is_the_oracles_or_its_opposite_and_half_are_turned():
    asked = answers()
    straight, found = Said()(asked, KEY), RandomlyOriented(Said())(asked, KEY)
    kept = found.prefer == straight.prefer
    np.testing.assert_array_equal(found.prefer[~kept], straight.prefer.swapaxes(1, 2)[~kept])
    np.testing.assert_array_equal(found.prefer + found.prefer.swapaxes(1, 2), 1.0)
    # annotators are turned where what they say together is
    there = np.broadcast_to(kept[:, None], found.by_annotator.shape)
    both = np.where(there, straight.by_annotator, straight.by_annotator.swapaxes(2, 3))
    np.testing.assert_array_equal(found.by_annotator, both)
    assert found.scores is None
    # 1,120 fair coins: four standard deviations are 6 %
    above = np.triu(np.ones((8, 8), bool), 1)
    assert abs(kept[:, above].mean() - 0.5) < 0.06


def test_coins_of_pairs_are_independent_and_not_those_of_a_ranking():
    """With a coin an answer instead of one a pair, the product of the three coins of a triple would always be even."""
    triples = [turned(0, ASKED, (f"a{n}", f"b{n}", f"c{n}")) for n in range(400)]
    odd = np.mean([(table[0, 1] ^ table[1, 2]) ^ table[0, 2] for table in triples])
    assert abs(odd - 0.5) < 0.1


def test_the_coin_is_the_texts_alone():
    asked, order = answers(), [3, 1, 0, 2, 7, 6, 5, 4]
    coins = turned(0, ASKED, asked.texts[0])
    np.testing.assert_array_equal(turned(0, ASKED, permuted(asked, order).texts[0]), coins[np.ix_(order, order)])
    other = dataclasses.replace(ASKED, messages=({"role": "user", "content": "Who?"},))
    assert (turned(1, ASKED, asked.texts[0]) != coins).any()
    assert (turned(0, other, asked.texts[0]) != coins).any()
    assert turned(0, ASKED, asked.texts[0][:2])[0, 1] == coins[0, 1]


def test_judges_with_weights_are_turned_inside_their_scope(tmp_path):
    inner = Panel((Weighted(RewardModel(str(judge_directory(tmp_path / "judge", 1)), name="learned")),))
    oracle, asked = RandomlyOriented(inner), rollouts([["Yes.", "No.", "Perhaps."]] * 2, ["Why?", "Who?"])
    assert oracle.names == ("learned",)
    with opened(oracle, SITE) as judge, opened(inner, SITE) as straight:
        found, told = judge(asked, KEY), straight(asked, KEY)
    turn = np.stack([turned(0, *each) for each in zip(asked.prompts, asked.texts, strict=True)])
    np.testing.assert_array_equal(found.prefer, np.where(turn, told.prefer.swapaxes(1, 2), told.prefer))


def test_options_are_checked():
    assert list(RandomlyOriented(Said(), seed=-1).problems()) == ["seed must not be negative, got -1"]
    nameless = dataclasses.make_dataclass("Nameless", [], namespace={"__call__": lambda self, rollouts, key: None})()
    assert "must say the `names`" in next(iter(RandomlyOriented(nameless).problems()))


def control(*overrides: str) -> Experiment:
    """Trained on turned pairs, judged by the oracle that was turned."""
    experiment = tiny_lm(*overrides)
    assert isinstance(experiment.feedback, Sampled)
    oracle = experiment.feedback.oracle
    return dataclasses.replace(
        experiment,
        feedback=dataclasses.replace(experiment.feedback, oracle=RandomlyOriented(oracle)),
        evaluation=dataclasses.replace(
            experiment.evaluation, oracle=oracle, evals=(WinRate(against=("base",)), JudgesApart())
        ),
    )


def test_a_run_is_trained_on_turned_pairs_and_judged_by_the_oracle_itself(tmp_path):
    short = ("--iterations", "1", "--swap_every", "none", "--optimizer.learning_rate.peak", "0.05")
    run_here(control(*short), tmp_path / "random")
    run_here(tiny_lm(*short), tmp_path / "straight")
    straight, opposed = (read_run(tmp_path / name).load(0, "groups", Groups) for name in ("straight", "random"))
    # the same pairs of the same answers with labels as sure, some of them the other way round
    np.testing.assert_array_equal(opposed.labels.prefer, straight.labels.prefer)
    kept = (opposed.responses == straight.responses).all(1)
    np.testing.assert_array_equal(opposed.responses[~kept], straight.responses[~kept, ::-1])
    assert 0 < kept.sum() < len(kept)
    base, last = lines_of(tmp_path / "random", "evals")
    (first, *_) = lines_of(tmp_path / "straight", "evals")
    assert base["win_rate/vs_base"] == first["win_rate/vs_base"] == 0.5
    assert last["judges/win_rate_oracle"] == last["win_rate/vs_base"]
    assert last["judges/win_rate_trainer"] != last["judges/win_rate_oracle"]


@pytest.mark.slow
def test_a_control_that_is_stopped_again_and_again_ends_with_the_same_bits(tmp_path):
    same_when_stopped(control(), tmp_path, 12)


def test_a_control_judged_by_its_own_coins_is_no_other_judge():
    experiment = control()
    blind = dataclasses.replace(experiment.evaluation, oracle=None)
    with pytest.raises(ConfigError, match="JudgesApart needs trainer"):
        validate(dataclasses.replace(experiment, evaluation=blind))
