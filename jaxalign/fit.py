"""The fit of one iteration: groups → batches → optimizer steps, with checkpoints inside and a policy at the end."""

import time
from collections.abc import Mapping

import jax
import numpy as np

from jaxalign.checkpoint import FitCheckpoints
from jaxalign.data import GroupOrder
from jaxalign.errors import DataError, Interrupted
from jaxalign.models.low_rank import frozen, join, trained
from jaxalign.packing import RowShape, pack, padding_fraction, row_shape, stack_microbatches
from jaxalign.progress import Progress
from jaxalign.session import ReferenceLogps, Session, Training
from jaxalign.sharding import row_sharding
from jaxalign.train import TrainState, check_finite
from jaxalign.types import Batch, Groups, Params, Rollouts


def fit(
    session: Session,
    iteration: int,
    policy: Params,
    live: Mapping[str, Params],
    rollouts: Rollouts,
    groups: Groups,
    references: ReferenceLogps,
) -> Params:
    """Policy `iteration` + 1, committed: `policy` after all steps of the iteration's fit. Continues a fit cut short."""
    if session.run.policy(iteration + 1).exists():
        session.run.clear_fit(iteration)
        return session.policy(iteration + 1)
    spec = session.experiment.fit
    order = group_order(session, iteration, groups)
    training = session.training(len(order))
    shape = row_shape(rollouts, groups)
    base, others = frozen(policy), {role: trained(params) for role, params in live.items()}
    with FitCheckpoints(session.run.fit_path(iteration), spec.checkpoint_every, spec.keep_checkpoints) as checkpoints:
        first, state = _start(checkpoints, order, training, policy)
        with Progress(f"{session.title(iteration)} fit", len(order), "steps", start=first) as progress:
            for index in range(first, len(order)):
                began = time.perf_counter()
                batch = make_batch(rollouts, groups, references, order[index], shape, spec.accumulate)
                state, metrics = training.step(
                    state, base, others, jax.device_put(batch, row_sharding(session.mesh, leading=1))
                )
                seen = {name: float(value) for name, value in metrics.items()}
                check_finite(index, seen)
                session.recorder.log(iteration, "fit", index, seen)
                session.recorder.perf(iteration, "fit", index, _rates(batch, time.perf_counter() - began))
                progress(index + 1)
                _save_when_due(session, iteration, checkpoints, order, index + 1, state)
    session.commit_policy(iteration + 1, state.params)
    session.run.clear_fit(iteration)
    return join(state.params, base)


def group_order(session: Session, iteration: int, groups: Groups) -> GroupOrder:
    """The batches of group numbers of an iteration's fit, in their order. DataError if there is nothing to fit."""
    if not len(groups.prompt):
        raise DataError(
            f"iteration {iteration}: no prompt has two different responses to compare; sample more, longer or hotter "
            "(rollout.samples, rollout.max_tokens, rollout.sampler)"
        )
    spec = session.experiment.fit
    seed = int(jax.random.bits(session.key("order", iteration), dtype=np.uint32))
    return GroupOrder(len(groups.prompt), spec.batch_size, spec.epochs, seed)


def make_batch(
    rollouts: Rollouts,
    groups: Groups,
    references: ReferenceLogps,
    chosen: np.ndarray,
    shape: RowShape,
    accumulate: int,
) -> Batch:
    """The groups numbered `chosen` as `accumulate` stacked microbatches, NumPy leaves."""
    columns = references.columns()
    return stack_microbatches(
        [pack(rollouts, groups, micro, shape, columns) for micro in chosen.reshape(accumulate, -1)]
    )


def _start(
    checkpoints: FitCheckpoints, order: GroupOrder, training: Training, policy: Params
) -> tuple[int, TrainState]:
    """The step to begin or continue with, and the state before it."""
    found = checkpoints.restore(training.abstract)
    if found is None:
        return 0, training.begin(policy)
    order.check(found.data)
    return found.step, found.state


def _save_when_due(
    session: Session, iteration: int, checkpoints: FitCheckpoints, order: GroupOrder, done: int, state: TrainState
) -> None:
    """Checkpoints after `done` steps when it is time or a stop is asked for; the last state becomes the policy."""
    stopping = session.stop_requested()
    if done == len(order) or not (stopping or checkpoints.due(done)):
        return
    checkpoints.save(done, state, order.state(done), {"iteration": iteration})
    if stopping:
        checkpoints.close()
        raise Interrupted(f"stopped after step {done} of {len(order)}; the same command continues there")


def _rates(batch: Batch, seconds: float) -> dict[str, float]:
    tokens = int((np.asarray(batch.rows.group) >= 0).sum())
    return {
        "perf/step_seconds": seconds,
        "perf/tokens_per_s_per_chip": tokens / seconds / jax.device_count(),
        "perf/padding_fraction": padding_fraction(batch.rows),
    }
