"""The passes on a mesh: tokens over the data axes, rows of the head over the tensor axis.

Each device passes over its own rows for its own tokens. Forward, [n] maxima and sums travel along the tensor axis;
backward, one sum of [n d] does, for the hidden states. dW is summed over the devices that hold the same rows. Logits
are never gathered, and neither is the head: where its columns are stored apart (`columns`, as FSDP does), a piece of
its rows at a time is gathered, and the piece's dW scattered back the same way. The gradients of a tied and of an untied
head are the same: what ties them adds them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from jaxalign.mesh.layout import TOKENS, Layout, entry
from jaxalign.ops.linear_logp import fused
from jaxalign.ops.linear_logp.fused import Kept, Task
from jaxalign.ops.linear_logp.problem import Gradients, Wants
from jaxalign.ops.linear_logp.stats import LinearStats, Tail

Primals = tuple[Array, Array, Array | None, Array]
PIECE_BYTES = 128 << 20
"""Most bytes of the head that are gathered at a time."""

KeptOf = tuple[Tail, LinearStats, Array | None]


@dataclass(frozen=True)
class OnMesh:
    """How hidden [n d], head [v d] and targets [n] lie on a mesh; along an axis not named here all are repeated."""

    mesh: Mesh
    tokens: tuple[str, ...] = ("data", "fsdp")
    """axes that split the tokens"""
    vocabulary: str | None = "tensor"
    """axis that splits the rows of the head"""
    columns: tuple[str, ...] = ()
    """those of `tokens` that split the head's columns where it is stored"""

    def problems(self, hidden: Array, head: Array) -> list[str]:
        """What does not fit this mesh, as sentences."""
        named = {*self.tokens, *filter(None, (self.vocabulary,)), *self.columns}
        if unknown := sorted(named - set(self.mesh.axis_names)):
            return [f"the mesh has axes {self.mesh.axis_names}, not {unknown}"]
        found = []
        if hidden.shape[0] % self.devices(self.tokens):
            found.append(f"{hidden.shape[0]} tokens do not divide over {self.devices(self.tokens)} devices")
        if not {*self.columns} <= {*self.tokens}:
            found.append(f"the head's columns lie along {self.columns}, which must be some of {self.tokens}")
        if head.shape[1] % self.devices(self.columns):
            found.append(f"width {head.shape[1]} does not divide over {self.devices(self.columns)} devices")
        return found

    @property
    def device(self) -> jax.Device:
        """One of the mesh's devices; they are all alike."""
        return self.mesh.devices.flat[0]

    def devices(self, axes: tuple[str, ...]) -> int:
        """Devices along some axes together."""
        size = 1
        for axis in axes:
            size *= self.mesh.shape[axis]
        return size

    @property
    def shards(self) -> int:
        """Pieces that the rows of the head are split into."""
        return 1 if self.vocabulary is None else self.devices((self.vocabulary,))

    def missing_rows(self, rows: int) -> int:
        """Rows to add to the head so that each device has as many."""
        return -rows % self.shards

    def pieces(self, head: tuple[int, ...], itemsize: int) -> int:
        """How many pieces a device's rows of a head [v d] are gathered in, one after the other."""
        size = -(-head[0] // self.shards) * head[1] * itemsize
        return -(-size // PIECE_BYTES) if self.columns else 1

    def rows_of_a_piece(self, head: tuple[int, ...], itemsize: int) -> int:
        """Rows that a device passes over at a time."""
        return -(-head[0] // (self.shards * self.pieces(head, itemsize)))

    @property
    def _specs(self) -> tuple[P, P, P, P]:
        return P(self.tokens, None), P(self.vocabulary, self.columns or None), P(self.vocabulary), P(self.tokens)

    def _local(self, task: Task, head: Array) -> Task:
        """The task of one device."""
        pieces = self.pieces(head.shape, head.dtype.itemsize)
        return replace(task, axis=self.vocabulary, columns=self.columns, pieces=pieces)

    def forward(self, task: Task, primals: Primals, wants: Wants | None) -> tuple[LinearStats, Kept]:
        """Statistics [n] along the tokens; the mean row's parts stay on the device that made them."""
        local = self._local(task, primals[1])

        def run(primals: Primals) -> tuple[LinearStats, KeptOf]:
            stats, kept = fused.forward(local, *primals, wants)
            assert kept.tiles is None, "an engine on a mesh keeps no logits"
            return stats, (kept.tail, kept.stats, None if kept.row is None else kept.row[None])

        stats, kept = self._mapped(run, (self._specs,), (P(self.tokens), self._kept), primals)
        return stats, Kept(*kept)

    def backward(self, task: Task, wants: Wants, primals: Primals, kept: Kept, cotangent: LinearStats) -> Gradients:
        """Gradients laid out as what they are gradients of."""
        local = self._local(task, primals[1])

        def run(primals: Primals, kept: KeptOf, cotangent: LinearStats) -> tuple[Any, Any, Any]:
            tail, stats, row = kept
            own = Kept(tail, stats, None if row is None else row[0])
            hidden, head, bias = fused.backward(local, wants, primals, own, cotangent)
            return hidden, self._summed(head, self.columns), self._summed(bias, ())

        specs = (self._specs, self._kept, P(self.tokens))
        return self._mapped(run, specs, self._specs[:3], primals, (kept.tail, kept.stats, kept.row), cotangent)

    @property
    def _kept(self) -> tuple[P, P, P]:
        return P(self.tokens), P(self.tokens), P(self.vocabulary, self.tokens, None)

    def _mapped(self, run: Callable[..., Any], takes: Any, gives: Any, *arguments: Any) -> Any:
        # the sums are written out, so there is nothing for JAX to infer about what repeats along which axis
        return jax.shard_map(run, mesh=self.mesh, in_specs=takes, out_specs=gives, check_vma=False)(*arguments)

    def _summed(self, gradient: Array | None, scattered: tuple[str, ...]) -> Array | None:
        """Over the tokens of all devices; along the axes that it was scattered over it is summed already."""
        over = tuple(axis for axis in self.tokens if axis not in scattered)
        return gradient if gradient is None or not over else jax.lax.psum(gradient, over)


def on_layout(layout: Layout, head: tuple[int, ...], tokens: tuple[str, ...] = TOKENS) -> OnMesh:
    """The op where a model lies: `head` is the shape [v d] of its parameter, `tokens` the axes that split tokens."""
    columns = tuple(axis for axis in entry(layout.spec(head, "vocab", "embed"), 1) if axis in tokens)
    return OnMesh(layout.mesh, tokens, "tensor" if layout.devices("tensor") > 1 else None, columns)
