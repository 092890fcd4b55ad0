"""A trust region: what is estimated, which log-probs it is estimated from, and the step that is not taken."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_groups import groups, rollouts
from made_logps import logps
from made_pairs import dpo
from made_runs import lines_of, policy, run_here, same_when_stopped, tiny_lm

from jaxalign.config.load import override, validate
from jaxalign.data.groups import RolledGroups, with_logps
from jaxalign.data.strays import Strayed
from jaxalign.errors import ConfigError
from jaxalign.losses.dpo import DPO
from jaxalign.machine import Machine
from jaxalign.models.lora import LoRA
from jaxalign.models.random_llama import RandomLlama
from jaxalign.plan.lowered import programs
from jaxalign.programs import check_steps
from jaxalign.training.logps import of_groups
from jaxalign.training.row_plan import plan_rows
from jaxalign.training.rows import Sizes, abstract_batch, pack
from jaxalign.training.step import Fit
from jaxalign.training.trust import KL, kl_of_last
from jaxalign.training.views import view_of

# ----------------------------------------------------------------------------------------------------------------------
# The estimate


def test_in_expectation_over_answers_of_last_it_is_the_kl():
    """Of answers of one token, every token listed as often as `last` says it: KL(last ‖ policy), exactly."""
    last, new = np.array([0.5, 0.25, 0.125, 0.125]), np.array([0.25, 0.25, 0.4, 0.1])
    drawn = np.repeat(np.arange(4), (8 * last).astype(int))
    seen = logps(groups=4, tokens=1)
    tokens, logged = (jnp.asarray(np.log(p)[drawn].reshape(4, 2, 1), jnp.float32) for p in (new, last))
    seen = dataclasses.replace(seen, tokens=tokens, last_tokens=logged)
    assert float(kl_of_last(seen).mean()) == pytest.approx(float((last * np.log(last / new)).sum()), rel=1e-5)


def test_it_is_a_sum_over_tokens_and_never_negative():
    seen = logps(groups=6, tokens=5)
    seen = dataclasses.replace(seen, last_tokens=jnp.where(seen.mask, seen.tokens, 7.0))
    np.testing.assert_array_equal(kl_of_last(seen), 0.0)
    nudged = dataclasses.replace(seen, tokens=seen.tokens + jnp.asarray(np.log(2), jnp.float32))
    np.testing.assert_allclose(kl_of_last(nudged), (1 - np.log(2)) * nudged.lengths.mean(-1), rtol=1e-5)
    rng = np.random.default_rng(0)
    other = seen.tokens + jnp.asarray(rng.normal(0, 1, seen.tokens.shape), jnp.float32)
    assert (kl_of_last(dataclasses.replace(seen, tokens=other)) > 0).all()


# ----------------------------------------------------------------------------------------------------------------------
# Log-probs that were logged


def drawn() -> RolledGroups:
    """All pairs of a prompt's answers, and some of two others; every token has a log-prob of its own."""
    rolled = rollouts()
    values = -np.arange(rolled.tokens.size, dtype=np.float32).reshape(rolled.tokens.shape)
    some = [[0, 1], [3, 2], [0, 2], [1, 3], [2, 1], [3, 0], [0, 1], [1, 2]]
    return RolledGroups(dataclasses.replace(rolled, logps=values), groups([0, 1, 0, 0, 1, 0, 2, 2], some))


@pytest.mark.parametrize("size", [1, 2, 4, 16])
def test_each_token_has_the_one_that_was_logged_whatever_its_row(size):
    pairs = drawn()
    plan = plan_rows(pairs, size)
    chosen = plan.rows.reshape(-1)
    batch = jax.tree.map(jnp.asarray, pack(with_logps(pairs), chosen, plan.shape, {}))
    found, mask = np.asarray(of_groups(batch, batch.last_tokens)), np.asarray(of_groups(batch, batch.mask))
    for number, row, own in zip(chosen, found, mask, strict=True):
        for response in (0, 1):
            if number >= 0:
                prompt, answer = pairs.groups.prompt[number], pairs.groups.responses[number, response]
                length = pairs.rollouts.lengths[prompt, answer]
                expected = pairs.rollouts.logps[prompt, answer, :length]
                np.testing.assert_array_equal(row[response][own[response]], expected)
    assert pack(pairs, chosen, plan.shape, {}).last_tokens is None


def test_strays_have_theirs_and_take_no_part():
    pairs = Strayed(with_logps(drawn()))
    plan = plan_rows(pairs)
    batch = pack(pairs, np.arange(len(pairs)), plan.shape, {})
    lengths = pairs.lengths[:, 2]
    stray = pairs.groups.take(pairs.others).logps[:, 0]
    for row, length, own in zip(batch.last_tokens, lengths, stray, strict=True):
        np.testing.assert_array_equal(row[2, :length], own[:length])


def test_a_plan_has_their_shape():
    pairs = with_logps(drawn())
    for size in (1, 4):
        shape = Sizes(8, 6, 2, 4).shared(size)
        planned = abstract_batch(shape, 2 * size, (), logged=True).last_tokens
        chosen = plan_rows(pairs, size).rows[:2].reshape(-1)
        assert planned.shape == pack(pairs, chosen, shape, {}).last_tokens.shape
        assert planned.dtype == np.float32


def test_a_view_tells_it_of_groups_by_weight():
    pairs = with_logps(drawn())
    view = view_of(model := RandomLlama(context=128).open(), DPO())
    params = model.load()
    plan = plan_rows(pairs)
    anchor = {"anchor": np.zeros((len(pairs), 2), np.float32)}
    batch = jax.tree.map(jnp.asarray, pack(pairs, np.arange(len(pairs)), plan.shape, anchor))
    seen = view(params, {}, batch)
    share = batch.weight / batch.weight.sum()
    assert float(view.watch(seen, share)[KL]) == pytest.approx(float((kl_of_last(seen) * share).sum()), rel=1e-6)
    assert KL not in view.watch(dataclasses.replace(seen, last_tokens=None), share)


# ----------------------------------------------------------------------------------------------------------------------
# Fits

FAST = ("--optimizer.learning_rate.peak", "1e-2", "--fit.epochs", "6", "--iterations", "1", "--swap_every", "none")


def test_a_fit_ends_before_the_first_step_that_is_outside(tmp_path, capsys):
    run_here(tiny_lm(*FAST, "--fit.max_kl", "inf"), tmp_path / "measured")
    measured = [line[KL] for line in lines_of(tmp_path / "measured", "fit")]
    assert len(measured) == 12
    assert abs(measured[0]) < 1e-6  # rounding: the policy is the one that sampled
    assert not lines_of(tmp_path / "measured", "kept")
    limit = 1.2 * measured[3]
    outside = next(step for step, kl in enumerate(measured) if kl > limit)
    assert 3 < outside < 12
    capsys.readouterr()
    run_here(tiny_lm(*FAST, "--fit.max_kl", str(limit)), tmp_path / "limited")
    lines = lines_of(tmp_path / "limited", "fit")
    assert [line[KL] for line in lines] == measured[: outside + 1]
    assert [line["update_norm"] == 0 for line in lines] == [False] * outside + [True]
    (kept,) = lines_of(tmp_path / "limited", "kept")
    assert kept["fit/steps"] == kept["fit/kept_step"] == outside
    said = capsys.readouterr().err
    assert f"the fit ends after step {outside}: KL(last ‖ policy) is" in said
    # the state stayed what it was before that step, so it is that of the checkpoint there
    later = policy(tmp_path / "measured", 1), policy(tmp_path / "limited", 1)
    differ = jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), *later))
    assert any(differ)


@pytest.mark.slow
def test_a_limited_fit_that_is_stopped_again_and_again_ends_with_the_same_bits(tmp_path):
    limited = tiny_lm(*FAST, "--fit.max_kl", "0.05", "--fit.moments", "kept", "--feedback.validation", "0.25")
    experiment = override(limited, ("--fit.evaluate_every", "2", "--iterations", "2"))
    same_when_stopped(experiment, tmp_path, 16)
    assert any(line["update_norm"] == 0 for line in lines_of(tmp_path / "whole", "fit"))


def test_recorded_pairs_were_sampled_by_nobody():
    with pytest.raises(ConfigError, match=r"fit\.max_kl goes by log-probs that the policy logged"):
        validate(dpo("--fit.max_kl", "1.0"))
    with pytest.raises(ConfigError, match="max_kl must be positive or None"):
        validate(tiny_lm("--fit.max_kl", "0"))


def test_a_policy_that_drops_out_is_not_the_one_that_sampled(tmp_path):
    limited = tiny_lm("--fit.max_kl", "0.5")
    dropping = dataclasses.replace(limited, model=LoRA(limited.model, rank=2, dropout=0.1))
    with pytest.raises(ConfigError, match=r"dropout 0\.1 of its adapters .* set model\.dropout to 0"):
        run_here(dropping, tmp_path)
    check_steps(limited, limited.model.open())
    check_steps(dataclasses.replace(dropping, fit=Fit()), dropping.model.open())


def test_a_planned_step_reads_them_too():
    """The program that `plan` compiles is that of the run, trust region and all."""
    experiment = tiny_lm("--fit.max_kl", "0.5", "--fit.rows.groups", "2")
    machine = Machine(experiment.model.open(), experiment.placement, experiment.seed)
    train = programs(experiment, machine, experiment.feedback.sizes(machine.model))[0]
    state, metrics = jax.eval_shape(train.function, *train.arguments)
    assert metrics[KL].shape == ()
    assert jax.tree.structure(state) == jax.tree.structure(train.arguments[0])
