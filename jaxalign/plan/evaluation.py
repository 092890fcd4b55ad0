"""What the evaluation computes: answers of the policies that are evaluated, and of other runs', to the held-out
prompts, and what the judges are asked about them."""

import pathlib
import tempfile
from collections import Counter
from dataclasses import replace

from jaxalign.data.prompts import opened
from jaxalign.errors import JaxalignError
from jaxalign.evals.context import Asks, evenly, iterate_name, other_name
from jaxalign.evaluate import POLICIES_SHOWN
from jaxalign.experiment import Experiment
from jaxalign.machine import Machine
from jaxalign.mesh.program import Program
from jaxalign.mesh.sharding import bytes_per_device
from jaxalign.models.low_rank import trained
from jaxalign.plan.judges import EVALUATION, programs_of


def evaluation_rollouts(experiment: Experiment, machine: Machine) -> tuple[Program, ...]:
    """Those that answer held-out prompts, unless the same programs of training take as much of everything. The base is
    on the devices while policies of other runs answer."""
    evaluation = experiment.evaluation
    if evaluation.rollout is None:
        return ()
    roller = machine.roller(evaluation.rollout)
    held = bytes_per_device(trained(machine.abstract)) if evaluation.others else 0
    training = {each.name: each for each in experiment.feedback.programs(machine)}
    return tuple(
        replace(each, name=EVALUATION + each.name, resident=each.resident + held)
        for each in roller.programs(machine.abstract, roller.bounds.prompt)
        if not _holds(training.get(each.name), replace(each, resident=each.resident + held))
    )


def _holds(one: Program | None, other: Program) -> bool:
    """Whether the work of one, and what lies beside it, is as much as that of the other."""
    if one is None:
        return False
    sizes = ((each.work.cached, each.work.row, each.work.rows_tokens, each.resident) for each in (one, other))
    return all(a >= b for a, b in zip(*sizes, strict=True))


def evaluation_calls(experiment: Experiment, machine: Machine) -> Counter[str]:
    """Calls of each program in the whole run's evaluation, by its name in evaluation; none where the prompts are not
    here to be counted."""
    evaluation, count, found = experiment.evaluation, prompts_of(experiment), Counter[str]()
    if count is None or evaluation.rollout is None:
        return found
    answering = len(experiment.evaluated) + len(evaluation.others)
    for name, each in machine.roller(evaluation.rollout).calls(count).items():
        found[EVALUATION + name] += answering * each
    block = machine.placement.judge_block_size
    for oracle, sides in ((experiment.judge, asked(experiment)), (experiment.trainer, _asked_of_trainer(experiment))):
        for policies, times in sides.items():
            for judge in programs_of(oracle, evaluation.rollout, policies, machine):
                found[EVALUATION + judge.program.name] += times * judge.calls(count, block)
    return found


def asked(experiment: Experiment) -> Counter[int]:
    """How often the oracle is asked in the whole run, by how many policies' answers lie side by side: by evals that say
    so, once of the same ones, and for the table at the end."""
    evaluation, found = experiment.evaluation, Counter[int]()
    names = [iterate_name(number) for number in experiment.evaluated]
    others = [other_name(index) for index in range(len(evaluation.others))]
    for last in range(1, len(names) + 1):
        sides = {each for one in evaluation.evals if isinstance(one, Asks) for each in one.asks(names[:last], others)}
        found.update(map(len, sides))
    found[len(evenly(names, POLICIES_SHOWN))] += 1
    return found


def _asked_of_trainer(experiment: Experiment) -> Counter[int]:
    """About every policy that is evaluated and the base, by evals that hear both judges."""
    asks = any("trainer" in each.needs for each in experiment.evaluation.evals)
    return Counter({2: len(experiment.evaluated)}) if asks else Counter()


def prompts_of(experiment: Experiment) -> int | None:
    """Held-out prompts; None where there are none, or none here."""
    source = experiment.evaluation.prompts
    if source is None:
        return None
    try:
        with tempfile.TemporaryDirectory() as cache:
            return len(opened(source, pathlib.Path(cache)))
    except (JaxalignError, OSError):
        return None
