"""The programs of an experiment's judges, beside the policy that they judge."""

from collections.abc import Mapping
from dataclasses import replace

from jaxalign.config.load import components
from jaxalign.experiment import Experiment
from jaxalign.feedback.sampled import Sampled
from jaxalign.machine import Machine
from jaxalign.mesh.sharding import bytes_per_device
from jaxalign.oracles.planned import Asked, JudgeProgram, Planned
from jaxalign.plan.target import model_of


def judges(experiment: Experiment, machine: Machine) -> tuple[JudgeProgram, ...]:
    """Those of the oracle that judges in training. All its models are on the devices together while it judges, and so
    is the policy.

    Raises ModelError where nothing is known of a judge's model.
    """
    feedback = experiment.feedback
    if not isinstance(feedback, Sampled):
        return ()
    bounds = feedback.rollout.bounds(machine.model)
    asked = Asked(bounds.samples, bounds.prompt, bounds.response)
    models = dict.fromkeys(each for each in components(feedback.oracle).values() if isinstance(each, Planned))
    found = [each.planned(machine.site, asked, model_of) for each in models]
    weights = [bytes_per_device(each.program.arguments[0]) for each in found]
    policy = bytes_per_device(machine.abstract)
    return tuple(
        replace(each, program=replace(each.program, resident=policy + sum(weights) - own))
        for each, own in zip(found, weights, strict=True)
    )


def judge_calls(experiment: Experiment, machine: Machine) -> Mapping[str, int]:
    """How often each of these programs, by name, is called in an iteration."""
    feedback = experiment.feedback
    prompts = feedback.prompts_per_iteration if isinstance(feedback, Sampled) else 0
    return {each.program.name: each.calls(prompts) for each in judges(experiment, machine)}
