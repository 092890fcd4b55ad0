"""Held-out answers of two policies are drawn independently: with one key they would go along with one another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_runs import run_here, tiny_lm

from jaxalign.__main__ import main
from jaxalign.games.families import three_action
from jaxalign.reopen import reopen
from jaxalign.rollouts.samplers import Temperature
from jaxalign.storage.rundir import home
from jaxalign.types import Rollouts

DRAWS = 400_000


def drawn(policy: np.ndarray, key: jax.Array) -> np.ndarray:
    """Answers of one token as a rollout draws them: sample j has the key folded with j."""
    keys = jax.vmap(lambda sample: jax.random.fold_in(key, sample))(jnp.arange(DRAWS))
    logits = jnp.tile(jnp.log(jnp.asarray(policy, jnp.float32)), (DRAWS, 1))
    return np.asarray(jax.jit(Temperature(1.0))(logits, keys))


def rates(policy: np.ndarray, other: np.ndarray, prefer: np.ndarray) -> tuple[float, float, float]:
    """By definition; of one answer each with keys of their own; and with the same keys."""
    own = drawn(policy, jax.random.key(1))
    theirs = [drawn(other, jax.random.key(seed)) for seed in (0, 1)]
    return (policy @ prefer @ other, *(float(prefer[own, each].mean()) for each in theirs))


def test_same_keys_measure_another_rate_than_the_games():
    """The three-action game, (.2, .5, .3) against (.3, .2, .5): .4710 by definition, .467 with the same keys. Standard
    errors of 400,000 draws are .0005 and .0003."""
    definition, apart, same = rates(np.array([0.2, 0.5, 0.3]), np.array([0.3, 0.2, 0.5]), three_action())
    assert definition == pytest.approx(0.4710)
    assert apart == pytest.approx(definition, abs=0.0018)
    assert same == pytest.approx(0.4670, abs=0.001)


def test_of_many_answers_the_same_keys_hide_a_part_of_a_gain():
    """Fifty answers of normal worth r, a judge who is near-hard, and the policy tilted by r."""
    worth = np.random.default_rng(0).normal(size=50)
    prefer = 1 / (1 + np.exp(-(worth[:, None] - worth) / 0.05))
    base = np.full(50, 1 / 50)
    tilted = base * np.exp(worth)
    definition, apart, same = rates(tilted / tilted.sum(), base, prefer)
    assert apart == pytest.approx(definition, abs=0.0025)
    assert same < definition - 0.015


def test_two_policies_that_are_equal_answer_independently(tmp_path, capsys):
    """A fit that moves nothing: the next policy is the base, and its answers are others all the same."""
    experiment = tiny_lm("--iterations", "1", "--swap_every", "none", "--optimizer.learning_rate.peak", "1e-30")
    run_here(experiment, tmp_path / "run")
    run = reopen(tmp_path / "run")
    base, last = (run.directory.load(home(number), "heldout", Rollouts) for number in (0, 1))
    (old,), (new,) = (jax.tree.leaves(run.machine().params(run.directory.policy(number)))[:1] for number in (0, 1))
    np.testing.assert_array_equal(np.asarray(old), np.asarray(new))
    shared = [mine == theirs for mine, theirs in zip(base.texts, last.texts, strict=True)]
    assert sum(shared) <= 1

    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(f'{{"prompt": "Say {word}."}}\n' for word in ("one", "two", "three")))
    assert main(["eval", str(tmp_path / "run"), "--prompts", str(prompts), "--json"]) == 0
    assert '"win_rate/vs_base": 0.5,\n      "win_rate/vs_base_stderr": 0.0' in capsys.readouterr().out
