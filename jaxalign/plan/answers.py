"""What certificates read: every answer of an iteration under its anchor, all of a prompt's in one row (`certify`)."""

import jax

from jaxalign.anchors.adaptive import Adaptive
from jaxalign.experiment import Experiment
from jaxalign.feedback.certifiable import uncertified
from jaxalign.feedback.sampled import Sampled
from jaxalign.fits.references import ANSWERS
from jaxalign.machine import Machine
from jaxalign.mesh.program import Program, Work
from jaxalign.mesh.sharding import on, row_sharding
from jaxalign.programs import beside_a_fit
from jaxalign.references.blended import Blended
from jaxalign.training.logps import scoring
from jaxalign.training.rows import Sizes, abstract_batch


def answers(experiment: Experiment, machine: Machine) -> tuple[Program, ...]:
    """The pass that reads them, beside the policy that gave them; none where nothing is certified."""
    if not certified(experiment):
        return ()
    sizes, count = _sizes(experiment, machine), machine.scorer.batch_size
    shape = experiment.fit.scored.full(sizes)
    batch = abstract_batch(shape, count * shape.groups, (), responses=sizes.responses)
    rows = jax.tree.map(lambda leaf: on(leaf, row_sharding(machine.mesh)), batch)
    tokens = count * shape.row
    work = Work(tokens, tokens, count * shape.scored, shape.row, ("forward",))
    scored = scoring(machine.model, machine.mesh, machine.flags)
    return (Program(ANSWERS, scored, (machine.abstract, rows), work, beside_a_fit(experiment, machine)),)


def certified(experiment: Experiment) -> int:
    """Iterations of the run whose answers are read: not those right after a swap, when the anchor is the policy itself.
    An adaptive anchor counts as if it never moved."""
    if uncertified(experiment.loss, experiment.feedback) or isinstance(experiment.reference, Blended):
        return 0
    if experiment.step_rule.period > 1:
        return 0
    swap, count = experiment.swap_every, experiment.iterations
    return count - 1 if swap is None or isinstance(swap, Adaptive) else count - -(-count // swap)


def answer_calls(experiment: Experiment, machine: Machine) -> int:
    """Calls of the pass in the whole run."""
    feedback = experiment.feedback
    if not isinstance(feedback, Sampled) or not certified(experiment):
        return 0
    rule = experiment.fit.scored
    # a prompt is one group, and rows for several of a prompt's hold that one
    rows = rule.planned(_sizes(experiment, machine), feedback.prompts_per_iteration, 1).rows
    return certified(experiment) * -(-rows // machine.scorer.batch_size)


def _sizes(experiment: Experiment, machine: Machine) -> Sizes:
    found = experiment.feedback.sizes(machine.model)
    assert found.answers is not None, "only sampled answers are certified"
    return Sizes(found.prompt, found.response, found.answers, found.answers)
