"""The fit of one iteration: groups → batches → optimizer steps, with checkpoints inside and a policy at the end.

The devices wait for the host as little as can be: batches are packed and sent ahead by another thread, and what a step
came to is read while the next one runs (on meshes of CPUs before it, see `one_at_a_time`). Nothing is transferred
unasked (`jax.transfer_guard`).
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial

import jax
import numpy as np
from jaxtyping import Bool, Int

from jaxalign.contracts.combiner import check_coefficients
from jaxalign.data.ahead import ahead
from jaxalign.data.groups import TrainingGroups
from jaxalign.data.order import GroupOrder
from jaxalign.errors import CheckpointError, Interrupted
from jaxalign.fits.objective import UNWATCHED, Watch
from jaxalign.fits.trial import Trial
from jaxalign.mesh.flags import platform_of
from jaxalign.mesh.rows import on_mesh, rows_here
from jaxalign.mesh.sharding import row_sharding
from jaxalign.models.low_rank import frozen, join
from jaxalign.programs import Training, steps_of
from jaxalign.session import Session
from jaxalign.storage import pytree
from jaxalign.storage.checkpoint import FitCheckpoints
from jaxalign.storage.rundir import MOMENTS_REMEDY
from jaxalign.storage.tiers import TieredCheckpoints
from jaxalign.training.outcomes import Intake, Outcomes
from jaxalign.training.row_plan import row_tokens
from jaxalign.training.rows import RowShape, pack, stack_microbatches
from jaxalign.training.scored import ReferenceLogps
from jaxalign.training.step import TrainState, check_finite
from jaxalign.types import Batch, Metrics, Params


def fit(
    session: Session,
    iteration: int,
    policy: Params,
    live: Mapping[str, Params],
    groups: TrainingGroups,
    references: ReferenceLogps,
    watch: Watch = UNWATCHED,
) -> Params:
    """Policy `iteration` + 1, committed: `policy` after all steps of the iteration's fit, unless what `watch` sees or
    its trust region end it earlier. Continues a fit cut short."""
    if session.run.policy(iteration + 1).exists():
        _clear(session, iteration)
        return session.policy(iteration + 1)
    spec = session.experiment.fit
    order, steps = steps_of(session.experiment, session.machine, iteration, groups)
    training = session.training(len(order), session.closing(iteration))
    base = frozen(policy)
    others = {role: training.reference(role, live[role]) for role in training.references}
    mesh, accumulate = session.machine.mesh, session.machine.placement.accumulate
    placed, here = row_sharding(mesh, leading=1), rows_here(row_sharding(mesh), steps.rows // accumulate)

    def make(index: int) -> tuple[Batch, int, int]:
        with jax.transfer_guard("disallow"), jax.profiler.TraceAnnotation("make batch"):
            rows, shape = steps[index]
            batch = make_batch(groups, references, rows, shape, accumulate, here)
            return on_mesh(batch, placed), int((rows >= 0).sum()), row_tokens(groups, rows)

    lasting = FitCheckpoints(
        session.run.fit_path(iteration), spec.checkpoint_every, spec.keep_checkpoints, session.hosts
    )
    with TieredCheckpoints(lasting, session.local_tier) as checkpoints:
        trial = Trial(session, iteration, len(order), watch)
        begin = partial(_begun, session, iteration, training, policy, live, len(order))
        first, state = _start(checkpoints, order, training, trial, begin)
        if not trial.passes(first, state):
            session.stop_here(f"before the evaluation after step {first}")
        todo = range(first, len(order))
        with session.progress(iteration, "fit", len(order), "steps", start=first) as progress:
            outcomes = Outcomes(partial(_tell, session, iteration, progress, trial), partial(_check, session))
            with (
                ahead(make, todo) as batches,
                session.profiler.fit(outcomes.settle) as traced,
                jax.transfer_guard("disallow"),
            ):
                for index in todo:
                    if trial.over:
                        break
                    with traced(index):
                        asked = outcomes.clock()
                        batch, count, tokens = next(batches)
                        intake = Intake(count, tokens, batch.rows.tokens.size, asked, outcomes.clock() - asked)
                        state, metrics = training.step(state, base, others, batch)
                        outcomes.follow(index, metrics, intake)
                        # A step behind the one that leaves the trust region would depend on when that is read.
                        if one_at_a_time(mesh) or spec.max_kl is not None:
                            outcomes.settle()
                    _keep_when_due(session, trial, checkpoints, order, min(index + 1, trial.steps), state, outcomes)
                outcomes.settle()
    return join(_committed(session, iteration, trial.chosen(state, training.abstract)), base)


def one_at_a_time(mesh: jax.sharding.Mesh) -> bool:
    """Whether a step must be over before the next is dispatched: where CPUs exchange data. Their devices share threads,
    and messages of two programs under way at once can wait for each other, or be taken for each other's."""
    return mesh.size > 1 and platform_of(mesh.devices.flat[0]) == "cpu"


def make_batch(
    groups: TrainingGroups,
    references: ReferenceLogps,
    rows: Int[np.ndarray, "n p"],
    shape: RowShape,
    accumulate: int,
    here: Bool[np.ndarray, " m"],
) -> Batch:
    """Rows of the groups numbered so as `accumulate` stacked microbatches, NumPy leaves.

    Only those of the rows that are `here`, among the m of a microbatch, are filled: other processes' devices hold the
    others, and see them in their own place of the same batch.
    """
    columns = references.columns()
    micros = np.where(here[:, None], rows.reshape(accumulate, len(here), -1), -1)
    return stack_microbatches([pack(groups, micro.reshape(-1), shape, columns) for micro in micros])


def _start(
    checkpoints: TieredCheckpoints, order: GroupOrder, training: Training, trial: Trial, begin: Callable[[], TrainState]
) -> tuple[int, TrainState]:
    """The step to begin or continue with, and the state before it."""
    found = checkpoints.restore(training.abstract)
    if found is None:
        return 0, begin()
    order.check(found.data)
    trial.recall(found.meta)
    return found.step, found.state


def _begun(
    session: Session,
    iteration: int,
    training: Training,
    policy: Params,
    live: Mapping[str, Params],
    steps: int,
) -> TrainState:
    """The state before the first of so many steps: of its schedule, and with the moments that the fit before kept."""
    spec = session.experiment.fit
    state = training.begin(policy, live, np.int32(iteration * steps if spec.schedule == "run" else 0))
    if spec.moments == "fresh" or not iteration or not jax.tree.leaves(state.opt_state):
        return state
    state = dataclasses.replace(state, opt_state=())  # fresh ones have gone before others take their room
    before = session.run.moments(iteration - 1)
    if not pytree.exists(before.path):
        raise CheckpointError(
            f"{before.path}: the moments that this fit begins with are gone, since a later one was over; "
            f"{MOMENTS_REMEDY}"
        )
    kept = before.load({"moments": training.abstract.opt_state})
    return dataclasses.replace(state, opt_state=kept["moments"])


def _check(session: Session, step: int, metrics: Metrics) -> None:
    check_coefficients(session.experiment.combiner, step, metrics)
    check_finite(step, metrics)


def _committed(session: Session, iteration: int, kept: Params) -> Params:
    """The policy's parameters, committed behind the moments that the next fit begins with, where there are any."""
    if jax.tree.leaves(kept.get("moments")) and iteration + 1 < session.experiment.iterations:
        session.run.keep_moments(iteration, {"moments": kept["moments"]})
    session.commit_policy(iteration + 1, kept["params"])
    _clear(session, iteration)
    params: Params = kept["params"]
    return params


def _clear(session: Session, iteration: int) -> None:
    """Deletes what an iteration's fit kept of itself, in the run directory and on each host."""
    session.run.clear_fit(iteration)
    if session.local_tier is not None:
        session.local_tier.clear()


def _tell(
    session: Session,
    iteration: int,
    progress: Callable[[int], None],
    trial: Trial,
    step: int,
    metrics: Metrics,
    perf: Metrics,
) -> None:
    trial.heed(step, metrics)
    session.recorder.log(iteration, "fit", step, metrics)
    session.recorder.perf(iteration, "fit", step, perf)
    progress(step + 1)


def _keep_when_due(
    session: Session,
    trial: Trial,
    checkpoints: TieredCheckpoints,
    order: GroupOrder,
    done: int,
    state: TrainState,
    outcomes: Outcomes,
) -> None:
    """Evaluates after `done` steps when it is time, and checkpoints when it is or a stop is asked for. Behind the last
    step there is the policy, unless the stop came before its evaluation."""
    if trial.due(done):
        outcomes.settle()
        with jax.transfer_guard("allow"):
            trial.passes(done, state)
    stopping = session.stop_requested()
    ended = (trial.over or done == len(order)) and not trial.due(done)
    if ended or not (stopping or checkpoints.due(done)):
        return
    outcomes.settle()
    with jax.transfer_guard("allow"):  # copies to the host are what it is for
        session.run.must_write()
        session.recorder.flush()
        checkpoints.save(done, state, order.state(done), trial.meta, stopping)
    trial.forget(checkpoints.steps())
    if stopping:
        checkpoints.close()
        raise Interrupted(f"stopped after step {done} of {len(order)}; the same command continues there")
