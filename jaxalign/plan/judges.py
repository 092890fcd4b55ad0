"""The programs of an experiment's judges, beside the policy that they judge: in training, and in evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import jax

from jaxalign.config.load import components
from jaxalign.contracts.scope import OpenableOracle
from jaxalign.experiment import Experiment
from jaxalign.feedback.sampled import Sampled
from jaxalign.machine import Machine
from jaxalign.mesh.sharding import bytes_per_device
from jaxalign.oracles.planned import Asked, JudgeProgram, Planned
from jaxalign.plan.target import model_of
from jaxalign.rollouts.contract import Rollout
from jaxalign.types import Oracle

EVALUATION = "evaluation/"
"""What the names of the programs that judge in evaluation begin with."""


def judges(experiment: Experiment, machine: Machine) -> tuple[JudgeProgram, ...]:
    """Those of training, then those of evaluation that are not smaller than the same judge's in training.

    Raises ModelError where nothing is known of a judge's model.
    """
    training, evaluation = in_training(experiment, machine), in_evaluation(experiment, machine)
    if experiment.trainer is not None:
        return (*training, *evaluation)
    known = {EVALUATION + each.program.name: each for each in training}
    larger = [each for each in evaluation if not _holds(known.get(each.program.name), each)]
    return (*training, *larger)


def in_training(experiment: Experiment, machine: Machine) -> tuple[JudgeProgram, ...]:
    """Those of the oracle that judges in training. All its models are on the devices together while it judges, and so
    is the policy."""
    feedback = experiment.feedback
    if not isinstance(feedback, Sampled):
        return ()
    return _together(programs_of(feedback.oracle, feedback.rollout, 1, machine), machine)


def in_evaluation(experiment: Experiment, machine: Machine) -> tuple[JudgeProgram, ...]:
    """Those of whoever judges held-out answers, at the end, when those of all policies may lie side by side. Where
    evals hear the judge of training too, about two policies, it comes beside the other one."""
    rollout, judge, trainer = experiment.evaluation.rollout, experiment.judge, experiment.trainer
    if rollout is None or judge is None:
        return ()
    found = programs_of(judge, rollout, len(experiment.evaluated), machine)
    if trainer is not None and any("trainer" in each.needs for each in experiment.evaluation.evals):
        found += programs_of(trainer, rollout, 2, machine)
    named = [replace(each, program=replace(each.program, name=EVALUATION + each.program.name)) for each in found]
    return _together(named, machine)


def judge_calls(experiment: Experiment, machine: Machine) -> Mapping[str, int]:
    """How often each program of training, by name, is called in an iteration."""
    feedback, block = experiment.feedback, machine.placement.judge_block_size
    prompts = feedback.prompts_per_iteration if isinstance(feedback, Sampled) else 0
    return {each.program.name: each.calls(prompts, block) for each in in_training(experiment, machine)}


def programs_of(
    oracle: Oracle | OpenableOracle | None, rollout: Rollout, policies: int, machine: Machine
) -> list[JudgeProgram]:
    """Those of the oracle's models, asked about the answers of so many policies side by side."""
    if oracle is None:
        return []
    bounds = rollout.bounds(machine.model)
    asked = Asked(policies * bounds.samples, bounds.prompt, bounds.response)
    models = dict.fromkeys(each for each in components(oracle).values() if isinstance(each, Planned))
    return [each.planned(machine.site, asked, model_of) for each in models]


def _together(found: Sequence[JudgeProgram], machine: Machine) -> tuple[JudgeProgram, ...]:
    """The programs of judges whose weights are on the devices at once, beside the policy's."""
    weights = [bytes_per_device(each.program.arguments[0]) for each in found]
    policy = bytes_per_device(machine.abstract)
    return tuple(
        replace(each, program=replace(each.program, resident=policy + sum(weights) - own))
        for each, own in zip(found, weights, strict=True)
    )


def _holds(one: JudgeProgram | None, other: JudgeProgram) -> bool:
    """Whether the rows of one, and what is asked of them, are as large as those of the other."""
    if one is None:
        return False
    sizes = ([leaf.shape for leaf in jax.tree.leaves(each.program.arguments[1:])] for each in (one, other))
    return all(a >= b for mine, theirs in zip(*sizes, strict=True) for a, b in zip(mine, theirs, strict=True))
