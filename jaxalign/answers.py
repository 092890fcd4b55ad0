"""Answers of policies to prompts when their runs are over: those that a run holds, new ones, and those of one pool of
opponents for several runs."""

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jaxtyping import Array, Key

from jaxalign.config.resolved import difference, plain
from jaxalign.data.comparisons.prompts import prompts_in
from jaxalign.errors import ConfigError
from jaxalign.evals.context import iterate_name, other_name
from jaxalign.evals.pool import check_pool, pool_of
from jaxalign.evaluate import answers_of, answers_of_others, theirs
from jaxalign.machine import Machine
from jaxalign.oracles.k_samples import users_of
from jaxalign.references.of_run import OfRun
from jaxalign.reopen import Run
from jaxalign.rollouts.contract import Rollout
from jaxalign.rollouts.enumerate import listed
from jaxalign.rollouts.keys import by_content
from jaxalign.rollouts.seam import rolled
from jaxalign.storage.rundir import home
from jaxalign.types import Params, Prompt, Rollouts

POOL_SEED = zlib.crc32(b"a pool of several runs")
"""Of answers that belong to no run."""


def answered(
    run: Run, machine: Machine, numbers: Sequence[int], prompts: str | None, least: int = 1, unasked: Sequence[int] = ()
) -> tuple[Mapping[str, Rollouts], Mapping[str, Rollouts]]:
    """Answers of the run's policies and of those of other runs that oppose them, by name: new ones to the prompts of a
    file, or those to held-out prompts that the run holds. Where it holds fewer than `least` to a prompt, and not all
    that there are, so many new ones to the same prompts. Of policies `unasked` it need hold none: theirs are new.
    ConfigError where it holds none of `numbers`."""
    evaluation = run.experiment.evaluation
    rollout = evaluation.rollout
    assert rollout is not None
    held: tuple[Mapping[str, Rollouts], Mapping[str, Rollouts]] | None = None
    if prompts is None:
        for number in numbers:
            if not run.directory.has(home(number), "heldout"):
                raise ConfigError(
                    f"{run.directory.path}: policy {number} has answered no held-out prompts; let the run go on, name "
                    "other --policies, or give some with --prompts"
                )
        there = answers_of(run.directory, numbers), answers_of_others(run.directory, evaluation)
        known = next(iter(there[0].values()))
        asked: Sequence[Prompt] = known.prompts
        held = there if known.lengths.shape[1] >= least or listed(rollout) else None
        if held is not None and not unasked:
            return held
    else:
        asked = prompts_in(prompts)
    roller = machine.roller(with_samples(rollout, least))
    roller.check(asked)

    def answers(params: Params, key: Key[Array, ""]) -> Rollouts:
        return rolled(roller, params, asked, by_content(key, asked))

    # A key for each policy: answers of two must be independent of one another.
    anew = [*unasked] if held is not None else [*numbers, *unasked]
    own = {
        iterate_name(each): answers(machine.params(run.directory.policy(each)), machine.key("eval", each))
        for each in anew
    }
    if held is not None:
        return {**held[0], **own}, held[1]
    others = enumerate(evaluation.others)
    return own, {other_name(at): answers(theirs(machine, each), machine.key("eval_other", at)) for at, each in others}


def with_samples(rollout: Rollout, least: int) -> Rollout:
    """The rollout, with so many answers to a prompt at least. ConfigError where it has no number of them."""
    if least == 1 or listed(rollout):
        return rollout
    if not dataclasses.is_dataclass(rollout) or "samples" not in {each.name for each in dataclasses.fields(rollout)}:
        raise ConfigError(f"--k: {type(rollout).__name__} says no number of samples that could be {least}")
    settings: Any = rollout
    found: Rollout = dataclasses.replace(settings, samples=max(least, settings.samples))
    return found


def pool_for(run: Run, others: Sequence[Run], option: str, same_prompts: bool) -> dict[str, OfRun]:
    """The pool (`evals.pool`) of the run and of others, by name. ConfigError, naming the `option` that asks for it,
    where these are not finished, or have another model or tokenizer, other users or another way to answer; where
    `same_prompts`, other held-out prompts."""
    check_pool(run.directory, [each.directory for each in others], option, same_prompts)
    for each in others:
        each.check_judges()
        _ = each.model  # what its policies were made from, tokenizer included, is what it was
        here, there = ({"users": plain("users", users_of(one.experiment.judge))} for one in (run, each))
        if lines := difference(there, here):
            shown = "".join(f"\n  {line}" for line in lines)
            raise ConfigError(f"{option}: {each.directory.path} has other users{shown}")
    return pool_of([run.directory, *(each.directory for each in others)])


def answered_by_pool(
    run: Run, machine: Machine, pool: Mapping[str, OfRun], prompts: Sequence[Prompt], least: int
) -> dict[str, Rollouts]:
    """New answers of a pool, `least` to a prompt at least, as the run's policies answer held-out prompts. Their keys
    are no run's own: they are the same whichever run is evaluated, and independent of the answers of any."""
    assert run.experiment.evaluation.rollout is not None
    roller, key = machine.roller(with_samples(run.experiment.evaluation.rollout, least)), jax.random.key(POOL_SEED)
    roller.check(prompts)
    keys = {name: by_content(jax.random.fold_in(key, at), prompts) for at, name in enumerate(pool)}
    return {name: rolled(roller, theirs(machine, each), prompts, keys[name]) for name, each in pool.items()}
