"""Learning from samples through the losses that train language models."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from made_rollouts import preferences, rollouts
from scipy.optimize import minimize

from jaxalign import pairs
from jaxalign.games import pairs as games_pairs
from jaxalign.games.divergence import kl
from jaxalign.games.families import three_action
from jaxalign.games.game import MatrixGame
from jaxalign.games.learner import Anchored, run
from jaxalign.games.learners.inpo import mirror_step
from jaxalign.games.pairs import BestSecond, BestWorst, RandomPair
from jaxalign.games.prox import prox
from jaxalign.games.sampled import Bernoulli, Drawn, Sampled, Sampling, Soft
from jaxalign.losses.dpo import DPO
from jaxalign.losses.inpo import INPO
from jaxalign.losses.ipo import IPO
from jaxalign.losses.mirror import MirrorStep
from jaxalign.losses.sppo import SPPO

STEP, TAU = 0.3, 0.1


def three() -> MatrixGame:
    return MatrixGame(jnp.asarray(three_action()))


def start() -> jax.Array:
    return jnp.log(jnp.asarray([0.2, 0.5, 0.3]))


def everything(policy: np.ndarray, copies: int = 1000) -> Drawn:
    """All ordered pairs in the proportions of π⊗π, with soft labels: an expectation as data."""
    counts = np.round(np.outer(policy, policy) * copies).astype(int)
    actions = np.repeat(np.stack(np.divmod(np.arange(9), 3), -1), counts.ravel(), axis=0)
    prefer = three_action()[actions[:, 0], actions[:, 1]]
    win = (three_action() @ policy)[actions]
    return Drawn(jnp.asarray(actions), jnp.asarray(prefer), jnp.asarray(win))


@pytest.mark.parametrize(
    "loss", [INPO(1 / STEP, TAU), INPO(1 / STEP, 0.0), IPO(1 / STEP)], ids=["inpo", "inpo0", "ipo"]
)
def test_the_language_model_losses_on_policy_pairs_take_a_mirror_step(loss):
    """Anchor and policy differ for INPO; for IPO the anchor is the policy."""
    policy = np.array([0.2, 0.5, 0.3])
    anchor = start() if isinstance(loss, IPO) else jnp.log(jnp.asarray([0.4, 0.4, 0.2]))
    tau = 0.0 if isinstance(loss, IPO) else loss.tau
    if not isinstance(loss, IPO):
        assert loss.mirror == MirrorStep(STEP, tau)
    fitted = Sampled(loss).fit(Sampling(start(), anchor, jax.random.key(0)), everything(policy))
    exact = mirror_step(three(), Anchored(start(), anchor), STEP, tau)
    # The losses sum log-probs in fp32, and the ridge of 1e-4 holds the fit back by that share of a step of 0.1 nats.
    np.testing.assert_allclose(fitted, exact, atol=3e-5)


def test_sppo_in_expectation_takes_the_same_step():
    policy = np.array([0.2, 0.5, 0.3])
    fitted = Sampled(SPPO(STEP), newton=10).fit(Sampling(start(), start(), jax.random.key(0)), everything(policy))
    exact = mirror_step(three(), Anchored(start(), start()), STEP, 0.0)
    # SPPO writes eta / 2 for the log-normaliser, so its least squares meet the step to second order in eta only.
    np.testing.assert_allclose(fitted, exact, atol=5e-3)


@pytest.mark.parametrize(("step", "apart"), [(0.3, 0.0), (1.0, 2e-4), (3.0, 0.0060), (10.0, 0.098)])
def test_sppo_at_large_steps_falls_short_of_multiplicative_weights(step, apart):
    """The minimiser of its population loss over policies, in total variation from the step."""
    policy = np.array([0.2, 0.5, 0.3])
    aim = step * (three_action() @ policy - 0.5)

    def loss(logits):
        ratio = logits - np.logaddexp.reduce(logits) - np.log(policy)
        return policy @ (ratio - aim) ** 2

    found = minimize(loss, np.log(policy), method="BFGS", options={"gtol": 1e-9}).x
    after, exact = (np.exp(each - np.logaddexp.reduce(each)) for each in (found, np.log(policy) + aim))
    assert np.abs(after - exact).sum() / 2 == pytest.approx(apart, abs=6e-4 if step == 10 else 6e-5)


def test_dpo_in_expectation_is_the_bradley_terry_fit():
    from jaxalign.games.learners.iter_dpo import IterDPO

    policy = np.array([0.2, 0.5, 0.3])
    fitted = Sampled(DPO(0.5), newton=30).fit(Sampling(start(), start(), jax.random.key(0)), everything(policy))
    exact = run(IterDPO(0.5), three(), start(), jnp.asarray([1]), 1).logp[0]
    np.testing.assert_allclose(fitted, exact, atol=2e-3)


def test_rank_pairs_take_another_step():
    """The step of many best-against-worst pairs is far from the mirror step, that of random pairs is near it."""
    key, exact = jax.random.key(1), mirror_step(three(), Anchored(start(), start()), STEP, TAU)

    def distance(rule):
        learner = Sampled(INPO(1 / STEP, TAU), prompts=20_000, rule=rule, votes=Soft())
        state = Sampling(start(), start(), key)
        return jnp.abs(learner.fit(state, learner.draw(three(), start(), key)) - exact).max()

    # Soft labels leave only the noise of which actions were drawn, about 1 / sqrt(20,000) of a step.
    assert distance(RandomPair()) < 3e-3
    assert min(distance(BestWorst()), distance(BestSecond())) > 5 * distance(RandomPair())


def test_sampled_inpo_settles_near_the_regularised_equilibrium_and_comal_near_nash():
    at = jnp.asarray([300])
    inpo = run(Sampled(INPO(1 / STEP, TAU), prompts=1024), three(), start(), at, 300).logp[0]
    comal = run(Sampled(INPO(1 / STEP, TAU), prompts=1024, inner=50), three(), start(), at, 300).logp[0]
    nash = jnp.log(jnp.asarray([4.0, 3.0, 4.0]) / 11)
    assert kl(prox(three(), start(), TAU), inpo) < 2e-3
    assert kl(nash, comal) < 5e-3 < kl(nash, inpo)


def test_votes_are_complementary_and_certain(key):
    prefer = jnp.broadcast_to(jnp.asarray(three_action()), (50, 3, 3))
    votes = Bernoulli()(key, prefer)
    np.testing.assert_array_equal(votes + jnp.swapaxes(votes, 1, 2), 1.0)
    assert set(np.unique(votes)) == {0.0, 0.5, 1.0}
    many = Bernoulli()(key, jnp.broadcast_to(jnp.asarray(three_action()), (20_000, 3, 3)))
    np.testing.assert_allclose(many.mean(0), three_action(), atol=0.015)


@pytest.mark.parametrize("rule", [RandomPair(), BestWorst(), BestSecond()], ids=lambda rule: type(rule).__name__)
def test_pairs_are_two_different_samples(rule, key):
    votes = Bernoulli()(key, jnp.full((200, 4, 4), 0.5))
    first, second = rule(key, jnp.tile(jnp.arange(4), (200, 1)), votes)
    assert (first != second).all()
    if not isinstance(rule, RandomPair):
        row = jnp.arange(200)
        assert (votes.mean(-1)[row, first] >= votes.mean(-1)[row, second]).all()


@pytest.mark.parametrize("name", ["BestWorst", "BestSecond"])
def test_rules_of_one_name_are_one_rule(name, key):
    """On the same samples, with duplicates and ties, games and language models compare the same two answers."""
    rng = np.random.default_rng(3)
    # eighths add up without rounding, whatever their order
    upper = np.triu(rng.integers(0, 9, (5, 5)) / 8, 1)
    game = upper + np.tril(1 - upper.T, -1) + np.eye(5) / 2
    actions = rng.integers(0, 5, (300, 4))
    votes = game[actions[:, :, None], actions[:, None, :]]
    first, second = getattr(games_pairs, name)()(key, jnp.asarray(actions), jnp.asarray(votes))
    row = np.arange(300)
    here = np.stack([actions[row, first], actions[row, second]], -1)
    given = rollouts([["abcde"[action] for action in each] for each in actions])
    groups = getattr(pairs, name)()(given, preferences(votes), key)
    there = np.take_along_axis(actions[groups.prompt], groups.responses, -1)
    differ = np.flatnonzero(here[:, 0] != here[:, 1])
    np.testing.assert_array_equal(groups.prompt, differ)
    np.testing.assert_array_equal(here[differ], there)
    assert 200 < len(differ) < 300


def test_random_pairs_are_uniform_over_ordered_pairs(key):
    first, second = RandomPair()(key, jnp.zeros((30_000, 3), int), jnp.full((30_000, 3, 3), 0.5))
    counts = np.bincount(np.asarray(first) * 3 + np.asarray(second), minlength=9).reshape(3, 3)
    np.testing.assert_allclose(counts / 30_000, (1 - np.eye(3)) / 6, atol=0.01)


def test_same_key_same_run_and_sweeps_over_seeds(key):
    learner, at = Sampled(INPO(1 / STEP, TAU), prompts=32), jnp.asarray([5])

    def final(seed):
        state = learner.seeded(start(), jax.random.key(seed))
        for t in range(5):
            state = learner.step(three(), state, jnp.asarray(t))
        return state.logp

    sweep = jax.vmap(final)(jnp.arange(3))
    np.testing.assert_allclose(sweep[0], run(learner, three(), start(), at, 5).logp[0], atol=1e-6)
    assert jnp.abs(sweep[0] - sweep[1]).max() > 1e-4


def test_hyper_parameters_of_the_loss_sweep_in_one_call(monkeypatch):
    """A loss declares floats, which only tests check; under `vmap` they are tracers and nothing else changes."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)

    def final(eta, tau):
        return run(Sampled(INPO(eta, tau), prompts=32, inner=2), three(), start(), jnp.asarray([4]), 4).logp[0]

    sweep = jax.vmap(final)(jnp.asarray([3.0, 5.0], jnp.float32), jnp.asarray([0.1, 0.3], jnp.float32))
    np.testing.assert_allclose(sweep[1], final(5.0, 0.3), atol=1e-6)
    assert jnp.abs(sweep[0] - sweep[1]).max() > 1e-3
