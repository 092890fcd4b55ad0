"""Step 0: while the policy is its own reference every log-ratio is 0, and the loss has a value known beforehand."""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jaxalign.contracts.extras import extras_of
from jaxalign.contracts.group_size import LONE
from jaxalign.contracts.scores import ScoreLoss
from jaxalign.contracts.traced import check_loss
from jaxalign.data.groups import PickedGroups
from jaxalign.doctor.opened import Opened
from jaxalign.doctor.outcome import Measured, Outcome, judged
from jaxalign.doctor.tolerance import NATS_PER_TOKEN
from jaxalign.losses.dpo import DPO
from jaxalign.models.low_rank import frozen, join, trained
from jaxalign.programs import check_steps
from jaxalign.training.logps import Scorer
from jaxalign.training.views import group_logps, view_of
from jaxalign.types import Batch, GroupLogps, Loss, Params

MICROBATCH = 4
"""Rows in the step at most: more of the same shape tell nothing more."""


@dataclass(frozen=True)
class Seen:
    """One loss and gradient of the run's loss, with references live in the same program and cached."""

    exact: float
    live: float
    cached: float
    loss: float
    expected: float
    slope: float
    dpo: float | None
    """None of lone answers"""
    grad_norm: float


@dataclass(frozen=True)
class FirstStep:
    """Under the config's mesh, remat and compute dtype."""

    def __call__(self, opened: Opened) -> Iterable[Outcome]:
        # Sums are over tokens, and so is their rounding; errors of either sign, so it grows with the root.
        allowed = NATS_PER_TOKEN[opened.model.config.compute_dtype] * math.sqrt(float(opened.groups.lengths.max()))
        seen = self.step(opened)
        yield judged(
            "policy = reference at step 0",
            {
                "log_ratio_same_path": seen.exact,
                "log_ratio_live": seen.live,
                "log_ratio_cached": seen.cached,
                "allowed_live_and_cached": allowed,
            },
            self.ratios(seen, allowed),
        )
        close = {"loss": seen.loss, "expected": seen.expected}
        if seen.dpo is not None:
            close |= {"dpo": seen.dpo, "ln_2": math.log(2)}
        yield judged("loss at step 0", close, self.losses(seen, allowed))
        gradient: Measured = {"grad_norm": seen.grad_norm}
        yield judged("gradient at step 0", gradient, self.gradients(seen))

    def ratios(self, seen: Seen, allowed: float) -> Iterator[str]:
        """Live and cached references go through other programs, whose sums have another order: no exact 0 there."""
        if seen.exact != 0.0:
            yield "the same program gave two values for the same policy: the device or the program is not deterministic"
        if not max(seen.live, seen.cached) <= allowed:
            yield "the reference is not the policy it was made of: references and policy are computed in different ways"

    def losses(self, seen: Seen, allowed: float) -> Iterator[str]:
        """An error e of the margin moves the loss by its slope times e, and by about e² more."""
        if not abs(seen.loss - seen.expected) <= 2 * allowed * seen.slope + 4 * allowed**2 + 1e-5 * abs(seen.expected):
            yield "the loss of equal policies is not what its formula says: reference log-probs do not reach it"
        if seen.dpo is not None and not abs(seen.dpo - math.log(2)) <= allowed * DPO().beta + 1e-6:
            yield "DPO of equal policies is not ln 2"

    def gradients(self, seen: Seen) -> Iterator[str]:
        """What the norm of the first gradient says against training."""
        if not math.isfinite(seen.grad_norm):
            yield "the gradient is not finite: look at compute_dtype, and at weights or scores that are"
        elif seen.grad_norm == 0.0:
            yield "the gradient is exactly 0: nothing will be learnt; look at the labels and at the loss's parameters"

    def step(self, opened: Opened) -> Seen:
        """Loss, gradient norm and log-probs of one microbatch of groups, the policy being its own reference.

        Raises BrokenContract of a loss, combiner or optimizer, ConfigError of a loss that does not fit the model.
        """
        experiment, said, responses = opened.experiment, opened.comparer.labels, opened.experiment.feedback.responses
        view_of(opened.model, experiment.loss, responses)
        check_loss(experiment.loss, experiment.combiner, said, opened.comparer.roles, responses=responses)
        check_steps(opened.experiment, opened.model)
        model, loss, mesh, params = opened.model, opened.experiment.loss, opened.mesh, opened.params
        assert not isinstance(loss, ScoreLoss), "a view of log-probs was made"
        numbers, batch = opened.batch(MICROBATCH)
        real = numbers >= 0
        # Each in a row of its own: that rows of several groups say the same is part of what is looked at.
        scorer, chosen = Scorer(model, mesh, MICROBATCH), PickedGroups(opened.groups, numbers[real])
        cached, again = (scorer.groups(params, chosen) for _ in range(2))
        base, asking = frozen(params), Both(extras_of(loss))

        def objective(part: Params, batch: Batch) -> tuple[Float[Array, ""], GroupLogps]:
            policy = join(part, base)
            seen = group_logps(model, asking, policy, dict.fromkeys(asking.needs, policy), batch)
            return mean(loss(seen), batch), seen

        run = jax.jit(jax.value_and_grad(objective, has_aux=True))
        (_, seen), grads = run(trained(params), batch)
        policy, stored = np.asarray(seen.sums)[real], np.zeros(seen.sums.shape, np.float32)
        stored[real] = cached
        with_cache = dataclasses.replace(seen, last=jnp.asarray(stored), anchor=jnp.asarray(stored))
        used = with_cache if opened.experiment.reference.stored(loss.needs) else seen
        tokens = None if seen.anchor_tokens is None else seen.tokens
        equal = dataclasses.replace(seen, last=seen.sums, anchor=seen.sums, anchor_tokens=tokens)
        labels = dataclasses.replace(used.labels, prefer=jnp.ones_like(used.prefer))
        certain = dataclasses.replace(used, labels=labels)
        return Seen(
            exact=float(np.abs(cached - again).max()),
            live=float(np.abs(policy - np.asarray(seen.anchor)[real]).max()),
            cached=float(np.abs(policy - cached).max()),
            loss=float(mean(loss(used), batch)),
            expected=float(mean(loss(equal), batch)),
            slope=slope(loss, equal, batch),
            dpo=None if responses == LONE else float(mean(DPO()(certain), batch)),
            grad_norm=float(optax.tree.norm(grads)),
        )


@dataclass(frozen=True)
class Both:
    """Asks for both references, whichever the run's own loss reads, and for what it reads besides."""

    extras: tuple[str, ...]

    needs: ClassVar[tuple[str, ...]] = ("last", "anchor")

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        return logps.sums[:, 0]


def mean(values: Float[Array, " b"], batch: Batch) -> Float[Array, ""]:
    """Over the groups by their weight, as the fit's objective."""
    weight = jnp.asarray(batch.weight)
    return jnp.where(weight > 0, values * weight, 0.0).sum() / weight.sum()


def slope(loss: Loss, equal: GroupLogps, batch: Batch) -> float:
    """Σ over the groups of the largest |d loss / d log π(token)|: by how much an error of the log-probs moves it."""
    gradient = jax.grad(lambda tokens: mean(loss(dataclasses.replace(equal, tokens=tokens)), batch))(equal.tokens)
    return float(jnp.abs(gradient).max((1, 2)).sum())


CHECK = FirstStep()
