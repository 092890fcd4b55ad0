"""Group-robust preference optimisation: the groups of annotators that are served worst count most. Ramesh et al. 2024
(arXiv 2405.20304), as its released code has it.

    loss     = Σ_g alpha_g L_g,        L_g = mean of `loss`(votes_g) over the pairs that group g has decided
    alpha_g ← alpha_g exp(step · L_g) / Z

A group is an annotator of the data: a pair is in the groups that have decided it, each with its own label, and most
data say one group a pair. The weights begin even in each fit, take in each batch before its loss and are remembered
from step to step; no gradient flows through them, and they are told as `memory/weight_0`, … . Of a group that a batch
has not they take L_g to be 0. L_g are over all pairs of an optimizer's step.

With small steps it comes to the policy whose largest L_g is least: there all that weigh have the same, unless one is
the worst at its own best. With DPO as `loss` it is GR-DPO, with IPO GR-IPO; `step` 0 is the even mean of groups.
Held-out pairs are scored by the mean over the groups that have decided them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.contracts.extras import extras_of
from jaxalign.contracts.group_size import PAIR, misfit
from jaxalign.losses.dpo import DPO
from jaxalign.losses.parts.votes import apart
from jaxalign.types import GroupLogps, Loss


@dataclass(frozen=True)
class GroupRobust:
    """What `loss` is of each group's labels, weighed by how badly the groups have fared."""

    loss: Loss
    """a loss of pairs that reads labels: of one group alone there are no win rates and no scores"""
    groups: int
    """how many there are, >= 2"""
    step: float = 0.01
    """how fast weights move, a nat of loss, >= 0"""

    @property
    def needs(self) -> tuple[str, ...]:
        """Those of the loss."""
        return self.loss.needs

    @property
    def extras(self) -> tuple[str, ...]:
        """Those of the loss, and the batch."""
        return (*extras_of(self.loss), "batch")

    @property
    def annotators(self) -> int:
        """As many as there are groups."""
        return self.groups

    def problems(self) -> Iterable[str]:
        if self.groups < 2:
            yield f"groups must be at least 2, got {self.groups}"
        if not self.step >= 0:
            yield f"step must not be negative, got {self.step}"
        if (reason := misfit(self.loss, PAIR)) is not None:
            yield f"{type(self.loss).__name__} {reason}"
        if "batch" in extras_of(self.loss):
            yield f"{type(self.loss).__name__} compares groups with one another, whoever leaves some out"

    def begin(self) -> Mapping[str, float]:
        """Even weights."""
        return dict.fromkeys(self._names, 1 / self.groups)

    def remember(self, logps: GroupLogps) -> Mapping[str, Float[Array, ""]]:
        """The weights, with this batch taken in."""
        assert logps.memory is not None
        # a weight that has become 0 in fp32 would stay so, however badly its group fares then
        least = jnp.finfo(jnp.float32).tiny
        before = jnp.log(jnp.maximum(jnp.stack([logps.memory[name][0] for name in self._names]), least))
        means = jax.lax.stop_gradient((self._apart(logps) * shares(logps)).sum(1))
        return dict(zip(self._names, jax.nn.softmax(before + self.step * means), strict=True))

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]:
        each = self._apart(logps)
        if logps.memory is None:
            return each.sum(0) / jnp.maximum(logps.labels.decided.sum(1), 1.0)
        assert logps.weight is not None
        weights = jnp.stack(list(self.remember(logps).values()))
        # The step takes the mean over the batch; what is wanted of a group is that over its own pairs.
        own = logps.weight @ logps.labels.decided
        return (weights * logps.weight.sum() / jnp.maximum(own, 1e-30)) @ each

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(f"weight_{group}" for group in range(self.groups))

    def _apart(self, logps: GroupLogps) -> Float[Array, "o b"]:
        """Each group's loss of each pair, 0 of those that it has not decided."""
        return jnp.stack(apart(logps, self.groups, self.loss))


def shares(logps: GroupLogps) -> Float[Array, "o b"]:
    """What each pair weighs among those of a group: they sum to 1, or 0 where there is none."""
    assert logps.weight is not None
    own = logps.weight[None] * logps.labels.decided.T
    return own / jnp.maximum(own.sum(1, keepdims=True), 1e-30)


EXAMPLE = GroupRobust(DPO(beta=0.2), groups=2)
