"""Answers of the policy with the anchor's behind them, and pairs of both."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_feedback import fed
from made_logps import logps
from made_models import ONE, mesh, nudged, place
from made_rollouts import CLOSE, PROMPTS, preferences, rollouts
from made_runs import CONFIGS, lines_of, run_here, same_when_stopped, tiny_lm

from jaxalign.config.load import load, validate
from jaxalign.errors import BrokenContract, ConfigError
from jaxalign.feedback.certifiable import uncertified
from jaxalign.losses.dpo import DPO
from jaxalign.losses.drpo import DRPO
from jaxalign.losses.hypo import HyPO
from jaxalign.losses.xpo import XPO
from jaxalign.pairings.against_anchor import AgainstAnchor
from jaxalign.pairings.anchor_pairs import AnchorPairs
from jaxalign.pairings.spread import Spread
from jaxalign.pairs import RandomPair
from jaxalign.rollouts import seam
from jaxalign.rollouts.beside_anchor import ANCHOR, BesideAnchor, BesideRoller
from jaxalign.rollouts.contract import Bounds
from jaxalign.rollouts.enumerate import Enumerate
from jaxalign.rollouts.geometric_mixture import GeometricMixture
from jaxalign.rollouts.sample import Sample
from jaxalign.rollouts.samplers import Greedy
from jaxalign.rollouts.shares import picked
from jaxalign.training.step import Fit

KEY = jax.random.key(7)
SPEC = Sample(samples=2, max_tokens=5)


@pytest.fixture(scope="module")
def anchor(params):
    return nudged(params, 0.3, seed=1)


def roller(model, on=ONE, rows=9):
    return BesideAnchor(SPEC).on(model, on, None, rows)


def same(one, other):
    for field in dataclasses.fields(one):
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        if isinstance(mine, np.ndarray) and mine.dtype == np.float32:
            np.testing.assert_allclose(mine, theirs, **CLOSE)
        else:
            np.testing.assert_array_equal(mine, theirs)


def test_each_says_what_it_says_alone(model, params, anchor):
    found = seam.rolled(roller(model).beside(anchor), params, PROMPTS, KEY)
    alone = SPEC.on(model, ONE, None, 9)
    theirs = seam.rolled(alone, anchor, PROMPTS, jax.random.fold_in(KEY, ANCHOR))
    half = np.full((len(PROMPTS), 2), 0.25, np.float32)
    for answers, of in ((slice(0, 2), seam.rolled(alone, params, PROMPTS, KEY)), (slice(2, 4), theirs)):
        same(picked(found, answers, "m"), dataclasses.replace(of, weights=half))


def test_without_an_anchor_the_policy_speaks_twice(model, params):
    found = seam.rolled(roller(model), params, PROMPTS, KEY)
    same(found, seam.rolled(roller(model).beside(params), params, PROMPTS, KEY))
    assert found.texts != tuple(texts[2:] + texts[:2] for texts in found.texts)


def test_eight_devices_draw_what_one_draws(model, params, anchor):
    on = mesh("2x2x2")
    many = roller(model, on).beside(place(model, anchor, on))
    one = seam.rolled(roller(model).beside(anchor), params, PROMPTS, KEY)
    same(seam.rolled(many, place(model, params, on), PROMPTS, KEY), one)


@pytest.mark.parametrize("orders", [([0], [1], [2]), ([2, 0], [1]), ([1], [], [0, 2])])
def test_prompts_wait_for_the_other_answer_whatever_the_order_of_pieces(orders):
    """An engine that keeps its rows busy gives a policy's answers in an order of its own."""
    made = rollouts([["a", "b"]] * 3, asked=["x", "y", "z"])
    anchors = ([1, 2], [0], [])

    class Pieces:
        bounds = Bounds(samples=2, prompt=8, response=1, vocab=4)

        def check(self, prompts):
            raise AssertionError

        def programs(self, params, prompt):
            raise AssertionError

        def calls(self, prompts):
            raise AssertionError

        def __call__(self, params, prompts, wanted, key):
            del prompts, wanted, key
            for numbers in orders if params["who"] == "policy" else anchors:
                of = picked(made, np.array(numbers, np.int64))
                texts = tuple(tuple(f"{params['who']} {text}" for text in row) for row in of.texts)
                notes = {"place": np.tile(np.array(numbers, np.float32)[:, None], (1, 2))}
                yield seam.Share(np.array(numbers, np.int64), dataclasses.replace(of, texts=texts), notes)

    found = list(BesideRoller(Pieces(), {"who": "anchor"})({"who": "policy"}, made.prompts, np.arange(3), KEY))
    assert len(found) == 3, "other processes have answers of other prompts, and commit as many pieces"
    numbers = np.concatenate([share.numbers for share in found])
    assert sorted(numbers) == [0, 1, 2]
    for share in found:
        assert share.rollouts.prompts == tuple(made.prompts[number] for number in share.numbers)
        assert set(share.rollouts.texts) <= {("policy a", "policy b", "anchor a", "anchor b")}
        np.testing.assert_array_equal(share.notes["place"], np.tile(share.numbers[:, None], (1, 4)))


def test_pairs_are_of_the_policy_and_the_anchor_by_hand():
    """Answers a (.75) and b (.25) of the policy, b (.5) and c (.5) of the anchor; b against itself stays."""
    weights = np.array([[0.375, 0.125, 0.25, 0.25]], np.float32)
    table = np.full((4, 4), 0.5, np.float32)
    for one, other, prefer in ((0, 2, 0.9), (0, 3, 0.2), (1, 3, 0.6)):
        table[one, other], table[other, one] = prefer, 1 - prefer
    groups = AgainstAnchor()(rollouts([["a", "b", "b", "c"]], weights=weights), preferences(table[None]), KEY)
    rows = zip(groups.responses.tolist(), groups.weight.tolist(), groups.labels.prefer.tolist(), strict=True)
    found = [(answers, pytest.approx(weight), pytest.approx(prefer)) for answers, weight, prefer in rows]
    assert found == [([0, 2, 2], 0.375, 0.9), ([3, 0, 3], 0.375, 0.8), ([1, 2, 2], 0.125, 0.5), ([1, 3, 3], 0.125, 0.6)]


def test_an_odd_number_of_answers_is_no_two_policies():
    made = rollouts([["a", "b", "c"]])
    with pytest.raises(BrokenContract, match="as many of the anchor's, got 3"):
        AgainstAnchor()(made, preferences(np.full((1, 3, 3), 0.5)), KEY)


def test_pairs_are_of_the_anchor_and_each_answer_of_the_policy_is_beside_them_by_hand():
    """Answers a (.75) and b (.25) of the policy; c (.5), d and d (.25) of the anchor: a pair of one text stays."""
    weights = np.array([[0.375, 0.125, 0.0, 0.25, 0.125, 0.125]], np.float32)
    table = np.full((6, 6), 0.5, np.float32)
    for one, other, prefer in ((3, 4, 0.2), (3, 5, 0.2)):
        table[one, other], table[other, one] = prefer, 1 - prefer
    made = rollouts([["a", "b", "b", "c", "d", "d"]], weights=weights)
    groups = AnchorPairs()(made, preferences(table[None]), KEY)
    rows = zip(groups.responses.tolist(), groups.weight.tolist(), groups.labels.prefer.tolist(), strict=True)
    assert [(answers, pytest.approx(weight), pytest.approx(prefer)) for answers, weight, prefer in rows] == [
        *[([4, 3, 0], 0.1875, 0.8), ([4, 3, 1], 0.0625, 0.8), ([5, 3, 0], 0.1875, 0.8), ([5, 3, 1], 0.0625, 0.8)],
        *[([4, 5, 0], 0.09375, 0.5), ([4, 5, 1], 0.03125, 0.5)],
    ]
    drawn = AnchorPairs(groups_per_prompt=4000)(made, preferences(table[None]), KEY)
    for group, weight in zip(groups.responses, groups.weight / groups.weight.sum(), strict=True):
        assert abs((drawn.responses == group).all(1).mean() - weight) < 4 * np.sqrt(weight / 4000)
    np.testing.assert_allclose(drawn.weight.sum(), groups.weight.sum(), rtol=1e-5)
    with pytest.raises(BrokenContract, match="takes two answers and more"):
        AnchorPairs()(rollouts([["a", "b"]]), preferences(np.full((1, 2, 2), 0.5)), KEY)


def test_xpo_is_dpo_and_what_the_anchors_answer_has_gained():
    seen = logps(responses=3)
    pair = jax.tree.map(lambda column: column, seen)
    expected = DPO(0.3)(pair) + 0.2 * (seen.sums - seen.anchor)[:, 2]
    np.testing.assert_allclose(XPO(beta=0.3, alpha=0.2)(seen), expected, rtol=1e-6)
    np.testing.assert_array_equal(XPO(beta=0.3, alpha=0.0)(seen), DPO(0.3)(pair))
    slope = jax.grad(lambda tokens: XPO(0.3, 0.2)(dataclasses.replace(seen, tokens=tokens)).sum())(seen.tokens)
    np.testing.assert_allclose(slope[:, 2], jnp.where(seen.mask[:, 2], 0.2, 0.0), rtol=1e-6)


def trained(*overrides):
    made = tiny_lm("--feedback.rollout.samples", "2", *overrides)
    both = fed(made, rollout=BesideAnchor(Sample(samples=2, max_tokens=8)), pairing=AgainstAnchor())
    return dataclasses.replace(both, loss=XPO(beta=0.1, alpha=0.01), fit=Fit(batch_size=8, checkpoint_every=1))


@pytest.mark.slow
def test_a_run_goes_on_where_it_was_stopped_and_the_anchor_speaks(tmp_path):
    same_when_stopped(trained(), tmp_path, questions=12)


def test_against_a_swapped_anchor_it_is_the_last_policy_again(tmp_path):
    """The anchor is swapped in with every iteration: both speak as the policy does, with other keys."""
    run_here(trained(), tmp_path)
    assert [line["pairs/groups"] for line in lines_of(tmp_path, "align")] == [32.0, 32.0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rollout": Sample(samples=2, max_tokens=8)}, "AgainstAnchor pairs the policy's answers with the anchor's"),
        ({"pairing": Spread(3)}, "XPO reads the anchor's own answer beside a pair"),
        ({"pairing": AnchorPairs()}, "XPO reads the anchor's own answer beside a pair"),
        ({"rollout": BesideAnchor(Sample(samples=1, sampler=Greedy()))}, "rollout.sampler is Greedy"),
        ({"rollout": BesideAnchor(GeometricMixture())}, "in which the anchor has a part already"),
    ],
)
def test_what_means_nothing_is_refused(change, said):
    with pytest.raises(ConfigError, match=said):
        validate(fed(trained(), **change))


@pytest.mark.parametrize("loss", [HyPO(0.1, 0.01), pytest.param(DRPO(), marks=pytest.mark.slow)], ids=["HyPO", "DRPO"])
def test_hybrid_losses_train_on_pairs_of_the_anchor(loss, tmp_path):
    hybrid = dataclasses.replace(fed(trained(), pairing=AnchorPairs()), loss=loss, swap_every=None)
    with pytest.raises(ConfigError, match=f"{type(loss).__name__} reads the policy's own answer beside a pair"):
        validate(fed(hybrid, pairing=AgainstAnchor()))
    run_here(hybrid, tmp_path)
    assert [line["pairs/groups"] for line in lines_of(tmp_path, "align")] == [16.0, 16.0]


def test_a_single_answer_each_is_a_pair_and_the_trust_region_has_no_logps():
    validate(fed(trained(), rollout=BesideAnchor(Sample(samples=1, max_tokens=8))))
    with pytest.raises(ConfigError, match="those that a BesideAnchor logs are not its alone"):
        validate(dataclasses.replace(trained(), fit=Fit(batch_size=8, max_kl=1.0)))


def test_pairs_of_both_are_not_certified():
    made = load(CONFIGS / "games" / "three_action.py")
    both = fed(made, rollout=BesideAnchor(Enumerate()), pairing=RandomPair())
    assert not uncertified(made.loss, made.feedback)
    assert "the anchor has a part in the answers of BesideAnchor" in uncertified(made.loss, both.feedback)


def test_drawn_pairs_come_as_often_as_their_weights_say():
    weights = np.array([[0.375, 0.125, 0.25, 0.25]], np.float32)
    made, oracle = rollouts([["a", "b", "b", "c"]], weights=weights), preferences(np.full((1, 4, 4), 0.5))
    every, drawn = AgainstAnchor()(made, oracle, KEY), AgainstAnchor(pairs_per_prompt=4000)(made, oracle, KEY)
    np.testing.assert_allclose(drawn.weight, 1 / 4000, rtol=1e-6)
    for group, weight in zip(every.responses, every.weight, strict=True):
        assert abs((drawn.responses == group).all(1).mean() - weight) < 4 * np.sqrt(weight / 4000)
