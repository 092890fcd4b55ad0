"""Anchors blended of several policies: what they are, what they are refused for, and that runs train against them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_examples import examples, named
from made_logps import responses_of
from made_pairs import dpo
from made_runs import CONFIGS, policy, run_here

import jaxalign.losses
import jaxalign.references
from jaxalign.anchors.adaptive import Adaptive
from jaxalign.config.load import load, validate
from jaxalign.contracts.traced import check_differences
from jaxalign.contracts.votes import annotators_of
from jaxalign.errors import CheckpointError, ConfigError
from jaxalign.losses.cpo import CPO
from jaxalign.losses.dpo import DPO
from jaxalign.losses.inpo import INPO
from jaxalign.losses.ipo import IPO
from jaxalign.losses.ld_dpo import LDDPO
from jaxalign.losses.sppo import SPPO
from jaxalign.references.blended import Blended, passes
from jaxalign.references.cached import Cached
from jaxalign.references.guide import Guide, LiveGuide
from jaxalign.references.mixture import Mixture
from jaxalign.references.momentum import Momentum
from jaxalign.references.of_run import OfRun
from jaxalign.references.uniform import Uniform
from jaxalign.storage.rundir import read_run
from jaxalign.training.pair_scores import PairScores
from jaxalign.training.scored import ReferenceLogps
from jaxalign.types import Groups, Labels, Loss

LOSSES = examples(jaxalign.losses, Loss, least=30)
BLENDED = examples(jaxalign.references, Blended, least=4)
GAME = CONFIGS / "games" / "three_action.py"


def game(**changes):
    """Fits of a few steps on the three-action game."""
    made = load(GAME)
    fit = dataclasses.replace(made.fit, epochs=5)
    return dataclasses.replace(made, **{"fit": fit, "iterations": 1, "swap_every": None, "loss": IPO(0.3), **changes})


# ----------------------------------------------------------------------------------------------------------------------
# What they are


@pytest.mark.parametrize("reference", BLENDED.values(), ids=named)
def test_blends_are_finite_and_of_their_members(reference):
    members = reference.members((4, 2, 0))
    assert all(-len(reference.outside) <= number and number in (-1, 0, 2, 4) for number in members)
    sums = np.random.default_rng(0).normal(-1e4, 1e3, (len(members), 5, 3))
    found = reference.blend(sums)
    assert found.shape == (5, 3)
    assert np.isfinite(found).all()
    stored = reference.stored(("last", "anchor"))
    assert passes(reference, ("last", "anchor")) == len(stored) - 1 + (len(members) if "anchor" in stored else 1)


def test_momentum_goes_beyond_the_last_anchor():
    assert Momentum(0.25).members((4, 2, 0)) == (4, 2)
    assert Momentum(0.25).members((0,)) == (0,)
    np.testing.assert_allclose(Momentum(0.25).blend(np.array([[[-1.0, -2.0]], [[-3.0, -1.0]]])), [[-0.5, -2.25]])
    np.testing.assert_array_equal(Momentum(0.25).blend(np.array([[[-1.0, -2.0]]])), [[-1.0, -2.0]])


def radius(momentum: float, rotation: np.ndarray) -> np.ndarray:
    """By how much an exact round multiplies the distance in a game of that frequency, in units of tau."""
    rho = 1 / (1 - 1j * rotation)
    return np.array([np.abs(np.roots([1, -each * (1 + momentum), each * momentum])).max() for each in rho])


def test_rounds_settle_with_momentum_below_a_third_only():
    rotation = np.logspace(-2, 2, 60)
    assert (radius(0.33, rotation) < 1).all()
    assert radius(0.34, rotation)[0] > 1
    assert "slow rotations" in "".join(Momentum(0.34).problems())
    assert not list(Momentum(0.33).problems())
    assert list(Momentum(0.0).problems())


def test_mixtures_of_one_are_that_one_and_arithmetic_ones_are_likelier():
    sums = np.array([[[-1.0, -5.0]], [[-3.0, -2.0]]])
    assert Mixture(base=1.0, anchor=0.0).members((4, 2, 0)) == (0,)
    assert Mixture().members((4, 2, 0)) == (0, 4)
    for kind in ("log-linear", "arithmetic", "harmonic"):
        np.testing.assert_allclose(Mixture(1.0, 0.0, kind=kind).blend(sums[:1]), sums[0])
    np.testing.assert_allclose(Mixture(0.25, 0.75).blend(sums), [[-2.5, -2.75]])
    mean, inverse = (0.25 * np.exp(sign * sums[0]) + 0.75 * np.exp(sign * sums[1]) for sign in (1, -1))
    np.testing.assert_allclose(Mixture(0.25, 0.75, kind="arithmetic").blend(sums), np.log(mean))
    np.testing.assert_allclose(Mixture(0.25, 0.75, kind="harmonic").blend(sums), -np.log(inverse))
    assert "must sum to 1" in "".join(Mixture(0.5, 0.6).problems())
    assert "each guide has one" in "".join(Mixture(0.5, 0.5, (OfRun("x"),)).problems())


def test_the_log_linear_mixture_is_the_reference_of_a_kl_to_each():
    """The best policy under E S − beta Σ w KL(π ‖ π_k) is that under E S − beta KL(π ‖ mixture)."""
    rewards, weights = jnp.array([0.3, -0.8, 1.1, 0.0]), (0.3, 0.7)
    policies = np.random.default_rng(1).dirichlet(np.ones(4), 2)
    anchor = Mixture(*weights).blend(np.log(policies)[:, None])[0]

    def objective(logits):
        policy = jax.nn.softmax(logits)
        pulls = [w * policy @ (jnp.log(policy) - jnp.log(each)) for w, each in zip(weights, policies, strict=True)]
        return policy @ rewards - 0.5 * sum(pulls)

    best = jnp.asarray(anchor, jnp.float32) + rewards / 0.5
    np.testing.assert_allclose(jax.grad(objective)(best), np.zeros(4), atol=1e-6)
    assert np.abs(jax.grad(objective)(best + jnp.array([0.3, 0.0, 0.0, 0.0]))).max() > 1e-3


def test_the_harmonic_mixture_is_no_nearer_than_the_others_and_bounds_a_kl_to_each():
    """Of any policy, by Jensen's inequality; equal where references are the same."""
    rng, weights = np.random.default_rng(2), (0.3, 0.7)
    for _ in range(20):
        policy, *each = rng.dirichlet(np.ones(5), 3)
        sums = np.log(each)[:, None]
        low, middle, high = (
            Mixture(*weights, kind=kind).blend(sums)[0] for kind in ("harmonic", "log-linear", "arithmetic")
        )
        assert (low <= middle).all()
        assert (middle <= high).all()
        to_each = weights @ np.array([policy @ (np.log(policy) - np.log(one)) for one in each])
        assert to_each <= policy @ (np.log(policy) - low)
        alike = Mixture(*weights, kind="harmonic").blend(np.stack([sums[0]] * 2))[0]
        np.testing.assert_allclose(alike, sums[0, 0])


# ----------------------------------------------------------------------------------------------------------------------
# What they are refused for

ABSOLUTE = {
    *("APOAlone", "APODown", "APOZero", "AOTUnpaired", "BCO", "BCOPairs", "FDPO", "KTO", "NCA", "NCAList", "OmniDPO"),
    *("RelativePO", "SPPO", "SPPOHard", "SelfPlayGradient", "GPO", "MaPPO", "HyPO", "DRPO"),
}
"""Ask how likely an answer is beside the anchor, and not beside another answer."""


def test_which_losses_compare_the_answers_to_a_prompt():
    found = set()
    for name, loss in LOSSES.items():
        if "anchor" not in loss.needs:
            continue
        responses = responses_of(loss)
        try:
            check_differences(loss, Labels.unsaid(2, responses, annotators_of(loss)), responses, "of a test")
        except ConfigError:
            found.add(name)
    assert found == ABSOLUTE


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"reference": Momentum()}, "made of the anchors that swaps bring"),
        ({"reference": Uniform(), "swap_every": 1, "iterations": 2}, "the anchor of reference Uniform stays"),
        ({"reference": Uniform(), "loss": CPO()}, "CPO reads none"),
        ({"reference": Momentum(), "swap_every": Adaptive(), "loss": INPO(0.5, 0.1)}, "there are none of the anchor"),
    ],
)
def test_schedules_that_mean_nothing_are_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        validate(game(**changes))


def test_a_loss_of_single_answers_wants_an_anchor_that_is_a_distribution(tmp_path):
    with pytest.raises(ConfigError, match="SPPO reads them answer by answer"):
        run_here(game(loss=SPPO(), reference=Momentum(), swap_every=1, iterations=2), tmp_path / "momentum")
    run_here(game(loss=SPPO(2.0), reference=Mixture(0.5, 0.5, kind="arithmetic"), swap_every=1), tmp_path / "mixed")


# ----------------------------------------------------------------------------------------------------------------------
# Runs


def logps_of(workdir, number):
    return np.asarray(jax.nn.log_softmax(policy(workdir, number)["table"][:, 0]))


def anchors_of(workdir, iteration):
    """What the fit was told of the anchor, and the numbers of the answers."""
    run = read_run(workdir)
    columns = run.load(iteration, "references", ReferenceLogps).columns()
    return columns["anchor"], run.load(iteration, "groups", Groups).responses


def test_momentum_takes_the_last_two_anchors_and_keeps_them(tmp_path):
    experiment = game(reference=Momentum(0.25), swap_every=2, iterations=5, loss=INPO(0.7, 0.1), keep_policies=1)
    run_here(experiment, tmp_path)
    found, answers = anchors_of(tmp_path, 4)
    now, before = logps_of(tmp_path, 4), logps_of(tmp_path, 2)
    np.testing.assert_allclose(found, (now + 0.25 * (now - before))[answers], rtol=1e-5)
    assert np.abs(now - before).max() > 1e-3
    first, answers = anchors_of(tmp_path, 1)
    np.testing.assert_allclose(first, logps_of(tmp_path, 0)[answers], rtol=1e-6)


def test_the_policy_that_sampled_is_not_blended(tmp_path):
    run_here(game(reference=Uniform(), loss=INPO(0.7, 0.1)), tmp_path)
    columns = read_run(tmp_path).load(0, "references", ReferenceLogps).columns()
    answers = anchors_of(tmp_path, 0)[1]
    np.testing.assert_allclose(columns["last"], logps_of(tmp_path, 0)[answers], rtol=1e-6)
    np.testing.assert_array_equal(columns["anchor"], np.zeros_like(columns["last"]))


def test_without_a_reference_dpo_is_cpo_without_its_likelihood(tmp_path):
    run_here(game(loss=DPO(0.5), reference=Uniform()), tmp_path / "free")
    run_here(game(loss=CPO(0.5, alpha=0.0), reference=Cached()), tmp_path / "cpo")
    np.testing.assert_array_equal(logps_of(tmp_path / "free", 1), logps_of(tmp_path / "cpo", 1))


def test_a_guide_of_another_run(tmp_path):
    run_here(game(loss=DPO(0.5)), tmp_path / "before")
    guided = game(loss=DPO(0.5), reference=Guide(OfRun(str(tmp_path / "before"))))
    run_here(guided, tmp_path / "after")
    found, answers = anchors_of(tmp_path / "after", 0)
    np.testing.assert_allclose(found, logps_of(tmp_path / "before", 1)[answers], rtol=1e-6)
    np.testing.assert_array_equal(logps_of(tmp_path / "after", 0), logps_of(tmp_path / "before", 0))
    missing = dataclasses.replace(guided, reference=Guide(OfRun(str(tmp_path / "before"), 7)))
    with pytest.raises(ConfigError, match=r"reference\.guide: policy 7: .* holds 0, 1"):
        run_here(missing, tmp_path / "missing")
    other = dataclasses.replace(guided, model=dataclasses.replace(guided.model, init=(0.3, 0.3, 0.4)))
    with pytest.raises(ConfigError, match=r"reference\.guide: the policies of .* are of another model"):
        run_here(other, tmp_path / "other")


def test_a_guide_that_is_live_is_the_guide_that_is_stored(tmp_path):
    """Token by token too, where answers have one."""
    run_here(game(loss=DPO(0.5)), tmp_path / "before")
    there = OfRun(str(tmp_path / "before"))
    for name, changes in (
        ("stored", {"loss": DPO(0.5), "reference": Guide(there)}),
        ("live", {"loss": DPO(0.5), "reference": LiveGuide(there)}),
        ("tokens", {"loss": LDDPO(0.5), "reference": LiveGuide(there)}),
    ):
        run_here(game(iterations=2, **changes), tmp_path / name)
    stored = logps_of(tmp_path / "stored", 2)
    for name in ("live", "tokens"):
        np.testing.assert_allclose(logps_of(tmp_path / name, 2), stored, rtol=1e-5, atol=1e-6)
    assert np.abs(stored - logps_of(tmp_path / "before", 1)).max() > 1e-3
    with pytest.raises(ConfigError, match="take reference=Live"):
        validate(game(loss=LDDPO(0.5), reference=Guide(there)))


def test_a_directory_that_is_no_run_is_named_with_the_field(tmp_path):
    """Wherever a config asks for a policy of it."""
    run_here(game(loss=DPO(0.5)), tmp_path / "before")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_text("{")
    nothing, damaged = (OfRun(str(tmp_path / name)) for name in ("nothing", "damaged"))
    there = OfRun(str(tmp_path / "before"))
    mixed = Mixture(0.4, 0.4, (there, nothing), (0.1, 0.1))
    evaluation = dataclasses.replace(game().evaluation, others=(there, damaged))
    for number, (changes, said) in enumerate(
        (
            ({"reference": Guide(nothing)}, r"reference\.guide: .*nothing: is no run directory"),
            ({"reference": mixed, "swap_every": 1}, r"reference\.guides\.1: .*nothing: is no run directory"),
            ({"evaluation": evaluation}, r"evaluation\.others\.1: .*damaged.*config\.json: damaged"),
        )
    ):
        with pytest.raises((ConfigError, CheckpointError), match=said):
            run_here(game(loss=DPO(0.5), **changes), tmp_path / str(number))


def test_held_out_pairs_are_measured_against_the_guide(tmp_path):
    run_here(dpo(), tmp_path / "before")
    run_here(dataclasses.replace(dpo(), reference=Guide(OfRun(str(tmp_path / "before")))), tmp_path / "after")
    before, after = (read_run(tmp_path / name) for name in ("before", "after"))
    guide = before.load(0, "heldout_pairs", PairScores).sums
    np.testing.assert_array_equal(after.load(0, "heldout_pairs", PairScores).anchor, guide)
    np.testing.assert_array_equal(after.load("initial", "heldout_pairs", PairScores).anchor, guide)
