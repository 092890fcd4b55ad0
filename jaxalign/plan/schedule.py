"""How often a run calls each program, and so how long it takes and what it costs in chip-hours.

Every prompt is taken to have its pairs and every row to be full and of the longest length, so hours err high; judges
without weights, evals that score answers, the few answers of `evaluation.shown`, and compilation are not counted, and
the evaluation only where its prompts are here. The fit that closes a round of an adaptive anchor is one of the
iterations like any other, and no fit ends early.
"""

from collections import Counter
from collections.abc import Mapping

from jaxalign.experiment import Experiment
from jaxalign.fits.references import ANSWERS
from jaxalign.machine import Machine
from jaxalign.models.low_rank import head_alone
from jaxalign.plan.answers import answer_calls, certified
from jaxalign.plan.evaluation import evaluation_calls
from jaxalign.plan.judges import judge_calls
from jaxalign.plan.left_out import calls_of
from jaxalign.plan.target import sizes_of
from jaxalign.references.blended import passes


def calls(experiment: Experiment, machine: Machine) -> Mapping[str, int] | None:
    """Calls of each program, by its name, in the whole run; None where only the data tell how many groups there are,
    and they are not here."""
    fit, sizes = experiment.fit, sizes_of(experiment, machine.model)
    units, scored = (experiment.feedback.count(machine, rule.groups) for rule in (fit.rows, fit.scored))
    if units is None or scored is None:
        return None
    scored = fit.scored.planned(sizes, scored, 1).rows
    steps = fit.epochs * -(-units // (fit.batch_size // fit.rows.groups))
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
        groups = experiment.feedback.count(machine) or units
        iteration["features"] = -(-groups // machine.features.batch_size)
    iteration.update(apart[0])
    run = Counter({name: experiment.iterations * count for name, count in iteration.items()})
    run.update(apart[1])
    if reads := answer_calls(experiment, machine):
        run[ANSWERS] = reads
        # what certificates have read of the anchor, references look up
        run["logp"] -= certified(experiment) * _of_anchor(experiment, stored, iteration["logp"], apart[0]["logp"])
    run.update(evaluation_calls(experiment, machine))
    return run


def _of_anchor(experiment: Experiment, stored: int, iteration: int, apart: int) -> int:
    """Calls of an iteration's passes for log-probs that are the anchor's; `apart` those of what no fit trains on, a
    part of `iteration`'s."""
    needs = experiment.loss.needs
    if "anchor" not in needs:
        return 0
    trained = (iteration - apart) // stored if "anchor" in experiment.reference.stored(needs) else 0
    return trained + apart // passes(experiment.reference, needs, every=True)
