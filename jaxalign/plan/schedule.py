"""How often a run calls each program, and so how long it takes and what it costs in chip-hours.

Every prompt is taken to have its pairs and every row to be full and of the longest length, so hours err high; judges
without weights, certificates (answers scored under the anchor), evals that score answers, the few answers of
`evaluation.shown`, and compilation are not counted, and the evaluation only where its prompts are here. The fit that
closes a round of an adaptive anchor is one of the iterations like any other, and no fit ends early.
"""

from collections import Counter
from collections.abc import Mapping

from jaxalign.experiment import Experiment
from jaxalign.machine import Machine
from jaxalign.models.low_rank import head_alone
from jaxalign.plan.evaluation import evaluation_calls
from jaxalign.plan.judges import judge_calls
from jaxalign.plan.left_out import calls_of
from jaxalign.references.blended import passes


def calls(experiment: Experiment, machine: Machine) -> Mapping[str, int] | None:
    """Calls of each program, by its name, in the whole run; None where only the data tell how many groups there are,
    and they are not here."""
    fit = experiment.fit
    rows, scored = (experiment.feedback.count(machine, each) for each in (fit.groups_a_row, fit.scored_groups_a_row))
    if rows is None or scored is None:
        return None
    steps = fit.epochs * -(-rows // (fit.batch_size // fit.groups_a_row))
    apart = calls_of(experiment, machine, steps)
    if apart is None:
        return None
    stored = passes(experiment.reference, experiment.loss.needs)
    iteration = Counter(
        {
            "train": steps,
            "logp": stored * -(-scored // machine.scorer.batch_size),
            **experiment.feedback.calls(machine),
            **judge_calls(experiment, machine),
        }
    )
    if head_alone(machine.model.abstract()):
        groups = experiment.feedback.count(machine) or rows
        iteration["features"] = -(-groups // machine.features.batch_size)
    iteration.update(apart[0])
    run = Counter({name: experiment.iterations * count for name, count in iteration.items()})
    run.update(apart[1])
    run.update(evaluation_calls(experiment, machine))
    return run
