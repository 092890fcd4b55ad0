"""The training step, one pure function (state, references, batch) → (state, metrics), and the fit that repeats it.

The step treats policy and references alike: parameters are arguments, never captured. References that are cached come
as columns of the batch, those that are live as parameters in `references`; the loss cannot tell.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxalign.config.settings import Unbounded
from jaxalign.contracts.extras import extras_of
from jaxalign.contracts.moving import Moving
from jaxalign.contracts.remembering import begun, recalled, recalling
from jaxalign.contracts.scores import GroupScores
from jaxalign.contracts.traced import losses
from jaxalign.errors import JaxalignError
from jaxalign.models.low_rank import dropped, join, trained
from jaxalign.objectives.mixed import Mixed
from jaxalign.training.one_prompt import OnePrompt
from jaxalign.training.pullbacks import combined, each_objective
from jaxalign.training.row_rule import RowRule
from jaxalign.training.trust import within
from jaxalign.training.views import View
from jaxalign.training.whole_batch import summed, whole
from jaxalign.types import Batch, Combiner, GroupLogps, Params, pytree

Step = Callable[["TrainState", Params, Mapping[str, Params], Batch], tuple["TrainState", dict[str, Array]]]
"""(state, frozen, references, batches) → (state, metrics); `frozen` is {} where every parameter is trained."""


@pytree
class TrainState:
    """What one step reads and writes: optimizer steps taken in this fit, the trained parameters (fp32), optimizer
    state, by role what is trained of references that move with the policy (fp32), what the loss remembers, and the
    schedule's step at which the fit began."""

    step: Int[Array, ""]
    params: Params
    opt_state: optax.OptState
    references: dict[str, Params] = field(default_factory=dict)
    memory: dict[str, Float[Array, ""]] = field(default_factory=dict)
    origin: Int[Array, ""] = field(default_factory=lambda: jnp.zeros((), jnp.int32))


@dataclass(frozen=True)
class Fit:
    """How the groups of one iteration become optimizer steps."""

    batch_size: int = 16
    """groups a step, over all devices and microbatches"""
    rows: RowRule = OnePrompt()
    """how groups are laid into rows: those of one prompt in each, or as many prompts as fill it"""
    scored_rows: RowRule | None = None
    """the same where groups are scored and nothing is trained: for references, and those held out; None: as the fit"""
    batches: Literal["shuffled", "level"] = "shuffled"
    """which groups are in a step together: any, or such that all steps have about the same tokens (`data.levelled`),
    and so `Packed` rows little padding"""
    epochs: int = 1
    """passes over the iteration's groups"""
    schedule: Literal["fit", "run"] = "fit"
    """what the schedule of the learning rate spans: each fit, or the run, of which every fit is an equal part, however
    many steps it has or takes"""
    moments: Literal["fresh", "kept"] = "fresh"
    """optimizer state that a fit begins with: fresh, or that of the fit before at the step that became the policy"""
    max_kl: Unbounded | None = None
    """trust region, nats an answer: the fit ends before the first step whose own groups say that KL(last ‖ policy) is
    larger (Schulman et al. 2015, arXiv 1502.05477; stopped early, as PPO's codes do). inf: measured, and no limit"""
    checkpoint_every: int = 100
    """steps between checkpoints inside a fit"""
    keep_checkpoints: int = 2
    """checkpoints kept inside a fit"""
    evaluate_every: int | None = None
    """steps between evaluations on the feedback's held-out pairs; None: none inside a fit"""
    keep: Literal["last", "best"] = "last"
    """which step becomes the policy: the last, or that of the least held-out loss"""
    patience: int | None = None
    """evaluations in a row without a lower held-out loss that end the fit; None: it takes all its steps"""

    def problems(self) -> Iterable[str]:
        for name, wanted in (
            ("evaluate_every", self.evaluate_every),
            ("patience", self.patience),
        ):
            if wanted is not None and wanted < 1:
                yield f"{name} must be at least 1 or None, got {wanted}"
        if self.max_kl is not None and not self.max_kl > 0:
            yield f"max_kl must be positive or None, got {self.max_kl}"
        if self.evaluate_every is None and (self.keep == "best" or self.patience is not None):
            yield "keep 'best' and patience go by the held-out loss: set evaluate_every"
        for name, value in (
            ("batch_size", self.batch_size),
            ("epochs", self.epochs),
            ("checkpoint_every", self.checkpoint_every),
            ("keep_checkpoints", self.keep_checkpoints),
        ):
            if value < 1:
                yield f"{name} must be at least 1, got {value}"

    @property
    def scored(self) -> RowRule:
        """How groups are laid that nothing is trained on."""
        return self.scored_rows or self.rows


class NotFinite(JaxalignError):
    """A loss or gradient that is NaN or infinite; no parameter was touched by it."""

    exit_code = 6


def init_state(
    params: Params,
    optimizer: optax.GradientTransformation,
    moving: Mapping[str, Params] = MappingProxyType({}),
    loss: object = None,
    origin: Int[Array, ""] | None = None,
) -> TrainState:
    """Step 0 of a fit of the policy `params` by `loss`, with `moving` references by role, at step `origin` (None: 0) of
    the schedule. What is trained is copied: a step donates its state, references may share the originals."""
    params = jax.tree.map(jnp.copy, trained(params))
    references = {role: jax.tree.map(jnp.copy, trained(each)) for role, each in moving.items()}
    zero, origin = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32) if origin is None else origin
    return TrainState(zero, params, optimizer.init(params), references, begun(loss), origin)


def make_step(
    view: View[Any],
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    combiner: Combiner = Mixed(),  # noqa: B008
    moving: Moving | None = None,
    max_kl: float | None = None,
) -> Step:
    """One optimizer step on the loss of `view`. Batches carry a leading axis of microbatches; groups count by their
    weight. References are given as what is trained of them; policy and references share what is frozen. Those in the
    state are `moving`. Behind `max_kl` (see `trust`) the state stays what it is.

    The objective is Σ weight · loss / Σ weight over the whole batch, however it is accumulated. A combiner of several
    has one for each annotator (`pullbacks`), a loss whose groups see one another all of them at once (`whole_batch`).
    """
    at_once = "batch" in extras_of(view.loss)

    def step(
        state: TrainState, frozen: Params, references: Mapping[str, Params], batches: Batch
    ) -> tuple[TrainState, dict[str, Array]]:
        total = jnp.maximum(batches.weight.sum(), 1e-30)
        references = {role: join(params, frozen) for role, params in {**references, **state.references}.items()}

        def seen_of(params: Params, batch: Batch) -> GroupLogps | GroupScores:
            policy = join(params, frozen)
            if view.model.dropout:
                # One mask a step, so that splitting a batch into microbatches changes nothing.
                policy = dropped(policy, view.model.dropout, jax.random.fold_in(jax.random.key(0), state.step))
            seen = view(policy, references, batch)
            return recalling(seen, state.memory) if isinstance(seen, GroupLogps) and state.memory else seen

        def mixture(params: Params, batch: Batch) -> tuple[Float[Array, ""], dict[str, Array]]:
            seen, share = seen_of(params, batch), batch.weight / total
            value = jnp.where(batch.weight > 0, losses(view.loss, seen) * share, 0.0).sum()
            return value, {"loss": value, **view.watch(seen, share)}

        def together(batch: Batch) -> tuple[Params, dict[str, Array]]:
            return jax.grad(mixture, has_aux=True)(state.params, batch)

        def apart(batch: Batch) -> tuple[Params, Float[Array, " o"], dict[str, Array]]:
            share, count = batch.weight / total, batch.labels.votes.shape[-1]
            gradients, values, seen = each_objective(view, lambda p: seen_of(p, batch), state.params, share, count)
            return gradients, values, view.watch(seen, share)

        if at_once and batches.weight.shape[0] > 1:
            grads, metrics = whole(view, seen_of, state.params, batches)
        elif combiner.objectives is None:
            grads, metrics = summed(together, batches)
        else:
            gradients, values, watched = summed(apart, batches)
            grads, metrics = combined(combiner, gradients, values)
            metrics |= watched
        params, opt_state, told = _updated(optimizer, schedule, state, grads)
        moved = state.references
        if moving is not None:
            moved = {role: moving.moved(state.step + 1, each, params) for role, each in moved.items()}
        after = TrainState(state.step + 1, params, opt_state, moved, recalled(metrics), state.origin)
        return within(max_kl, metrics | told, state, after)

    return step


def _updated(
    optimizer: optax.GradientTransformation, schedule: optax.Schedule, state: TrainState, grads: Params
) -> tuple[Params, optax.OptState, dict[str, Array]]:
    """Parameters and optimizer state one step of the optimizer on, and metrics of that step."""
    # optimizers and schedules mix counts of steps with rates
    with jax.named_scope("optimizer"), jax.numpy_dtype_promotion("standard"):
        step = state.origin + state.step
        updates, opt_state = optax.with_extra_args_support(optimizer).update(
            grads, state.opt_state, state.params, step=step
        )
        rate = jnp.asarray(schedule(step), jnp.float32)
        params = optax.apply_updates(state.params, updates)
    norms = {"grad_norm": optax.tree.norm(grads), "update_norm": optax.tree.norm(updates)}
    return params, opt_state, {**norms, "learning_rate": rate}


def check_finite(step: int, metrics: Mapping[str, float]) -> None:
    """Raises NotFinite with what was seen; the caller has not committed the step.

    The update is looked at too: a rate or an optimizer can make NaN of a finite gradient, and the next step's loss,
    which would tell, comes after the state was kept.
    """
    for name in ("loss", "grad_norm", "update_norm"):
        if not math.isfinite(metrics[name]):
            raise NotFinite(
                f"fit: {name} is {metrics[name]} at step {step}. The last checkpoint is intact; lower the learning "
                "rate, or clip harder, in a fork of the config and start it in another directory"
            )
