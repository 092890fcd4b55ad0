"""Groups that no fit is trained on (`Recorded.heldout`, `Sampled.validation`, `Sampled.unseen`): the program that
scores them by the loss of the fit, how often it is called, and what else they take.

Inside a fit it runs beside all that a step keeps: the optimizer's state, references that are live, and the policy that
the fit began with.
"""

from collections import Counter

from jaxalign.anchors.adaptive import Adaptive
from jaxalign.contracts.extras import extras_of
from jaxalign.contracts.moving import Moving
from jaxalign.contracts.votes import annotators_of
from jaxalign.experiment import Experiment
from jaxalign.machine import Machine
from jaxalign.mesh.program import Program, Work
from jaxalign.mesh.sharding import bytes_per_device
from jaxalign.models.low_rank import frozen, head_alone, trained
from jaxalign.plan.abstract import featured, stacked
from jaxalign.plan.target import sizes_of
from jaxalign.programs import beside_a_fit, pair_scorer, planned_scoring, training
from jaxalign.references.blended import Blended, passes
from jaxalign.training.rows import Sizes, abstract_batch

NAME = "left_out"
"""Of the program."""


def left_out(experiment: Experiment, machine: Machine, sizes: Sizes) -> tuple[Program, ...]:
    """The program, against all references at once: those that move, or that are read token by token, are live. None
    where every group is trained on."""
    if not (experiment.feedback.holds_out or experiment.feedback.apart(machine)):
        return ()
    loss, scorer = experiment.loss, pair_scorer(experiment, machine)
    together = "batch" in extras_of(loss)
    parts = experiment.placement.accumulate if together else 1
    planned = planned_scoring(experiment, machine, sizes, loss)
    count, shape = planned.rows // parts, planned.shape
    groups = count * shape.groups
    if head_alone(machine.model.abstract()):
        rows, (tokens, through, row) = featured(machine, sizes, shape.groups, groups), (groups * sizes.responses, 0, 1)
        scored = tokens
    else:
        edited = "edited" in extras_of(loss)
        rows = abstract_batch(shape, groups, loss.needs, annotators_of(loss), sizes.responses, edited=edited)
        tokens = through = count * shape.row
        scored, row = count * shape.scored, shape.row
    alive = ("anchor",) if _moves(experiment) or "anchor_tokens" in extras_of(loss) else ()
    params = machine.abstract
    arguments = (trained(params), frozen(params), dict.fromkeys(alive, trained(params)), stacked(machine, rows, parts))
    work = Work(parts * tokens, parts * through, parts * scored, row, ("forward",) * (1 + len(alive)), parts)
    return (Program(NAME, scorer.program, arguments, work, _beside(experiment, machine)),)


def _beside(experiment: Experiment, machine: Machine) -> int:
    """Bytes on a device beside the policy that is scored, and beside references that move with it."""
    made = training(experiment, machine, steps=1000)
    live = bytes_per_device(dict(made.references))
    if experiment.fit.evaluate_every is not None:
        live += bytes_per_device((made.abstract.opt_state, {} if _moves(experiment) else made.abstract.references))
    return beside_a_fit(experiment, machine) + live


def _moves(experiment: Experiment) -> bool:
    reference = experiment.reference
    return isinstance(reference, Moving) and bool(reference.live(experiment.loss.needs))


def calls_of(experiment: Experiment, machine: Machine, steps: int) -> tuple[Counter[str], Counter[str]] | None:
    """Calls by program: those of an iteration with a fit of so many steps, and those of the run beside; None where only
    data that are not here could tell.

    Anchors that are scored once count as if none was swapped in twice.
    """
    feedback, fit, scorer = experiment.feedback, experiment.fit, machine.scorer
    together, sizes = "batch" in extras_of(experiment.loss), sizes_of(experiment, machine.model)
    rule = fit.rows if together else fit.scored
    units, scored = feedback.apart(machine, rule.groups), feedback.apart(machine, fit.scored.groups)
    if None in units.values() or None in scored.values():
        return None

    def rows(count: int | None) -> int:
        return rule.planned(sizes, count or 0, 1).rows if count else 0

    if together:
        size = fit.batch_size // rule.groups
        batches = {name: -(-(count or 0) // size) for name, count in units.items()}
    else:
        size = planned_scoring(experiment, machine, sizes, experiment.loss).rows
        batches = {name: -(-rows(count) // size) for name, count in units.items()}
    inside = 0
    if fit.evaluate_every is not None:
        inside = -(-steps // fit.evaluate_every) * (2 if _moves(experiment) else 1)
    found, once = Counter[str](), Counter[str]()
    for name, count in batches.items():
        # What a fit begins with is evaluated where it may stay; unseen ones before and after.
        started = (2 if _moves(experiment) else 1) if name == "validation" else 0
        found[NAME] += {"unseen": 2}.get(name, inside + started) * count
    if "heldout" in batches:
        once[NAME] = (len(experiment.evaluated) + _anchors(experiment)) * batches["heldout"]
    if not machine.model.config.outputs:
        roles = passes(experiment.reference, experiment.loss.needs, every=True)
        apart = (
            fit.scored.planned(sizes, count, 1).rows for name, count in scored.items() if name != "heldout" and count
        )
        found["logp"] = sum(roles * -(-count // scorer.batch_size) for count in apart)
    elif head_alone(machine.model.abstract()):
        groups = feedback.apart(machine).get("heldout") or 0
        once["features"] = -(-groups // machine.features.batch_size)
    return found, once


def _anchors(experiment: Experiment) -> int:
    """Policies at most under which held-out groups are scored to be an anchor's."""
    swap, reference = experiment.swap_every, experiment.reference
    if "anchor" not in experiment.loss.needs:
        return 0
    every = 1 if isinstance(swap, Adaptive) else swap
    anchors = 1 if every is None else experiment.iterations // every + 1
    return anchors + (len(reference.outside) if isinstance(reference, Blended) else 0)
