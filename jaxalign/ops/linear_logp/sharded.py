"""The passes on a mesh: tokens over the data axes, rows of the head over the tensor axis.

Each device passes over its own rows for its own tokens. Forward, [n] maxima and sums travel along the tensor axis;
backward, one sum of [n d] does, for the hidden states. dW is summed over the devices that hold the same rows. Logits
are never gathered; the head is only where its columns are stored apart (`columns`, as FSDP does), and then dW is
scattered back the same way. The gradients of a tied and of an untied head are the same: what ties them adds them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from jaxalign.ops.linear_logp import fused
from jaxalign.ops.linear_logp.fused import Kept, Task
from jaxalign.ops.linear_logp.problem import Gradients, Wants
from jaxalign.ops.linear_logp.stats import LinearStats, Tail

Primals = tuple[Array, Array, Array | None, Array]
KeptOf = tuple[Tail, LinearStats, Array | None]


@dataclass(frozen=True)
class OnMesh:
    """How hidden [n d], head [v d] and targets [n] lie on a mesh; along an axis not named here all are repeated."""

    mesh: Mesh
    tokens: tuple[str, ...] = ("data", "fsdp")
    """axes that split the tokens"""
    vocabulary: str | None = "tensor"
    """axis that splits the rows of the head"""
    columns: str | None = None
    """the one of `tokens` that splits the head's columns where it is stored"""

    def problems(self, hidden: Array, head: Array) -> list[str]:
        """What does not fit this mesh, as sentences."""
        named = {*self.tokens, *filter(None, (self.vocabulary, self.columns))}
        if unknown := sorted(named - set(self.mesh.axis_names)):
            return [f"the mesh has axes {self.mesh.axis_names}, not {unknown}"]
        found = []
        if hidden.shape[0] % self.devices(self.tokens):
            found.append(f"{hidden.shape[0]} tokens do not divide over {self.devices(self.tokens)} devices")
        if self.columns is not None:
            if self.columns not in self.tokens:
                found.append(f"the head's columns lie along {self.columns!r}, which must be one of {self.tokens}")
            if head.shape[1] % self.devices((self.columns,)):
                found.append(f"width {head.shape[1]} does not divide over {self.devices((self.columns,))} devices")
        return found

    def devices(self, axes: tuple[str, ...]) -> int:
        """Devices along some axes together."""
        size = 1
        for axis in axes:
            size *= self.mesh.shape[axis]
        return size

    def missing_rows(self, rows: int) -> int:
        """Rows to add to the head so that each device has as many."""
        return -rows % (1 if self.vocabulary is None else self.devices((self.vocabulary,)))

    @property
    def _specs(self) -> tuple[P, P, P, P]:
        return P(self.tokens, None), P(self.vocabulary, self.columns), P(self.vocabulary), P(self.tokens)

    def _whole(self, primals: Primals) -> Primals:
        hidden, head, bias, targets = primals
        if self.columns is not None:
            head = jax.lax.all_gather(head, self.columns, axis=1, tiled=True)
        return hidden, head, bias, targets

    def forward(self, task: Task, primals: Primals, wants: Wants | None) -> tuple[LinearStats, Kept]:
        """Statistics [n] along the tokens; the mean row's parts stay on the device that made them."""
        local = replace(task, axis=self.vocabulary)

        def run(primals: Primals) -> tuple[LinearStats, KeptOf]:
            stats, kept = fused.forward(local, *self._whole(primals), wants)
            assert kept.tiles is None, "an engine on a mesh keeps no logits"
            return stats, (kept.tail, kept.stats, None if kept.row is None else kept.row[None])

        stats, kept = self._mapped(run, (self._specs,), (P(self.tokens), self._kept), primals)
        return stats, Kept(*kept)

    def backward(self, task: Task, wants: Wants, primals: Primals, kept: Kept, cotangent: LinearStats) -> Gradients:
        """Gradients laid out as what they are gradients of."""
        local = replace(task, axis=self.vocabulary)

        def run(primals: Primals, kept: KeptOf, cotangent: LinearStats) -> tuple[Any, Any, Any]:
            tail, stats, row = kept
            own = Kept(tail, stats, None if row is None else row[0])
            hidden, head, bias = fused.backward(local, wants, self._whole(primals), own, cotangent)
            return hidden, None if head is None else self._summed(head), None if bias is None else self._summed(bias)

        specs = (self._specs, self._kept, P(self.tokens))
        return self._mapped(run, specs, self._specs[:3], primals, (kept.tail, kept.stats, kept.row), cotangent)

    @property
    def _kept(self) -> tuple[P, P, P]:
        return P(self.tokens), P(self.tokens), P(self.vocabulary, self.tokens, None)

    def _mapped(self, run: Callable[..., Any], takes: Any, gives: Any, *arguments: Any) -> Any:
        # the sums are written out, so there is nothing for JAX to infer about what repeats along which axis
        return jax.shard_map(run, mesh=self.mesh, in_specs=takes, out_specs=gives, check_vma=False)(*arguments)

    def _summed(self, gradient: Array) -> Array:
        """Over the tokens of all devices; a head's columns go back to where they are stored."""
        scattered = gradient.ndim == 2 and self.columns is not None
        over = tuple(axis for axis in self.tokens if not (scattered and axis == self.columns))
        gradient = jax.lax.psum(gradient, over) if over else gradient
        if scattered:
            gradient = jax.lax.psum_scatter(gradient, self.columns, scatter_dimension=1, tiled=True)
        return gradient
