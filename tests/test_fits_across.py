"""What goes on from fit to fit: moments of the optimizer, the schedule of the learning rate; and that a stop between or
inside fits changes nothing of it."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
from made_fits import train
from made_pairs import dpo, worsening
from made_runs import lines_of, policy, run_here, same_when_stopped

from jaxalign.contracts.traced import built
from jaxalign.errors import ConfigError, Interrupted
from jaxalign.programs import check_optimizer
from jaxalign.storage.rundir import read_run
from jaxalign.training.optim import AdamW, WarmupLinear

ON = ("--fit.moments", "kept", "--fit.schedule", "run")
EVERY = ("--fit.batch_size", "50", "--fit.evaluate_every", "none", "--fit.keep", "last", "--optimizer.eps", "1e-4")


def told(workdir, phase, name):
    return [line[name] for line in lines_of(workdir, phase)]


def farthest(one, other):
    return max(jax.tree.leaves(jax.tree.map(lambda a, b: float(abs(a - b).max()), one, other)))


def test_two_fits_that_hand_on_are_one_of_twice_the_steps(tmp_path):
    """On the same pairs, all of them in every step, against the same anchor: nothing tells the iterations apart."""
    run_here(dpo(*EVERY, "--fit.epochs", "8"), tmp_path / "one")
    run_here(dpo(*EVERY, "--fit.epochs", "4", "--iterations", "2", *ON), tmp_path / "two")
    run_here(dpo(*EVERY, "--fit.epochs", "4", "--iterations", "2", *ON[2:]), tmp_path / "fresh")
    rates = [told(tmp_path / name, "fit", "learning_rate") for name in ("one", "two", "fresh")]
    assert rates[0] == rates[1] == rates[2]
    one, two, fresh = policy(tmp_path / "one", 1), policy(tmp_path / "two", 2), policy(tmp_path / "fresh", 2)
    assert farthest(one, two) < 1e-2 * farthest(one, fresh), "rows in another order, and no more"


def test_a_schedule_spans_the_run_or_each_fit(tmp_path):
    schedule = WarmupLinear(peak=3e-4).schedule(8)
    run_here(dpo(*EVERY, "--fit.epochs", "4", "--iterations", "2", *ON[2:]), tmp_path / "run")
    assert told(tmp_path / "run", "fit", "learning_rate") == pytest.approx([float(schedule(step)) for step in range(8)])
    each = WarmupLinear(peak=3e-4).schedule(4)
    run_here(dpo(*EVERY, "--fit.epochs", "4", "--iterations", "2"), tmp_path / "fit")
    assert told(tmp_path / "fit", "fit", "learning_rate") == pytest.approx(2 * [float(each(step)) for step in range(4)])


def test_stopped_again_and_again_it_ends_with_the_same_bits(tmp_path):
    experiment = dpo("--fit.keep", "best", "--iterations", "2", *ON)
    same_when_stopped(experiment, tmp_path, 13)
    assert not list(tmp_path.glob("*/*/moments")), "the last fit has nobody to hand on to"


def test_the_moments_of_the_step_that_became_the_policy_are_handed_on(tmp_path):
    """A stop between two fits: the best step of the first was its second, and so many steps its moments have seen."""
    experiment = worsening("--fit.keep", "best", "--iterations", "2", *ON)

    def behind_the_first_fit() -> bool:
        return (tmp_path / "0000" / "moments" / "commit_success.txt").exists()

    with pytest.raises(Interrupted):
        run_here(experiment, tmp_path, behind_the_first_fit)
    (kept,) = told(tmp_path, "kept", "fit/kept_step")
    assert kept == 2
    params = policy(tmp_path, 1)
    fresh = built(experiment.optimizer, 14)[0].init(params)
    found = read_run(tmp_path).moments(0).load({"moments": jax.tree.map(abstract, fresh)})["moments"]
    counts = [int(leaf) for leaf in jax.tree.leaves(found) if leaf.ndim == 0]
    assert counts == [2]
    assert farthest(found, fresh) > 0


def abstract(leaf):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def test_an_optimizer_without_moments_has_none_to_hand_on(tmp_path):
    assert train(tmp_path / "kept", *ON, iterations=2) == 0
    assert train(tmp_path / "fresh", iterations=2) == 0
    assert not list(tmp_path.glob("*/*/moments"))
    jax.tree.map(np.testing.assert_array_equal, policy(tmp_path / "kept", 2), policy(tmp_path / "fresh", 2))


def test_a_longer_run_is_another_run(tmp_path):
    """The schedule spans the iterations that there are: more of them in the same directory are refused."""
    few = (*EVERY, "--fit.epochs", "1", *ON)
    run_here(dpo(*few), tmp_path)
    with pytest.raises(ConfigError, match="iterations"):
        run_here(dpo(*few, "--iterations", "2"), tmp_path)


@pytest.mark.parametrize(
    "rated",
    [
        lambda rate: optax.chain(optax.scale_by_sign(), optax.scale_by_learning_rate(rate)),
        lambda rate: optax.chain(optax.identity(), optax.inject_hyperparams(optax.adam)(learning_rate=rate)),
    ],
    ids=["scaled", "injected"],
)
def test_an_optimizer_that_counts_itself_is_refused_where_it_would_be_at_another_step(rated):
    @dataclasses.dataclass(frozen=True)
    class Own:
        def build(self, steps):
            schedule = optax.linear_schedule(1.0, 0.0, steps)
            return rated(schedule), schedule

    @dataclasses.dataclass(frozen=True)
    class Constant:
        def build(self, steps):
            return rated(0.1), optax.constant_schedule(0.1)

    check_optimizer(dataclasses.replace(dpo(*ON), optimizer=Constant()))
    check_optimizer(dataclasses.replace(dpo(), optimizer=Own()))
    check_optimizer(dataclasses.replace(dpo(*ON), optimizer=AdamW(WarmupLinear(1e-3))))
    for option in (ON[:2], ON[2:]):
        with pytest.raises(ConfigError, match="optimizer Own: counts the steps of its schedule by itself"):
            check_optimizer(dataclasses.replace(dpo(*option), optimizer=Own()))
