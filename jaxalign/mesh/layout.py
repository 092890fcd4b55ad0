"""How the arrays of one model lie on a mesh: what modules ask, so that their maths need not know of devices.

Activations are split by rows, sequence and, inside a layer, by heads or feed-forward. Matrices are stored split by
width over the axes that split tokens (`sharding.RULES`, "embed") and gathered, in the compute dtype, for the layer that
needs them; their gradients are scattered back the same way (ZeRO-3: Rajbhandari et al. 2019, arXiv 1910.02054). XLA
would find most of this, but not reliably, and one layer in which it does not costs the memory of a pod.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from jaxalign.mesh.sharding import ROWS, Rules, axes_of, devices_along, spec

TOKENS = (*ROWS, "context")
"""Axes whose devices see other tokens."""


@dataclass(frozen=True)
class Layout:
    """A mesh and the table of logical axes; besides those of parameters, "rows" and "sequence" name axes here."""

    mesh: Mesh
    rules: Rules

    def spec(self, shape: tuple[int, ...], *names: str | None) -> PartitionSpec:
        """How an array of `shape` is split."""
        return spec(self.mesh, {**dict(self.rules), "rows": ROWS, "sequence": "context"}, shape, names)

    def sharding(self, shape: tuple[int, ...], *names: str | None) -> NamedSharding:
        """The same, on this mesh."""
        return NamedSharding(self.mesh, self.spec(shape, *names))

    def place(self, x: Float[Array, "*axes"], *names: str | None) -> Float[Array, "*axes"]:
        """`x`, split by the names of its axes."""
        return jax.lax.with_sharding_constraint(x, self.sharding(x.shape, *names))

    def gather(self, weight: Float[Array, "*axes"], *names: str | None) -> Float[Array, "*axes"]:
        """A parameter as a layer needs it: whole along the axes that split tokens. Its gradient is summed over them
        and stored split."""
        return gathered(weight, self.sharding(weight.shape, *names), self.resident.sharding(weight.shape, *names))

    def contract(self, subscripts: str, x: Array, weight: Array, names: tuple[str | None, ...]) -> Array:
        """einsum(subscripts, x, gathered weight) of activations [rows, sequence, …]; see `contracted`."""
        return contracted(self, subscripts, names, x, weight)

    @property
    def resident(self) -> "Layout":
        """The layout of parameters that are gathered once and stay so, as decoding wants them."""
        return replace(self, rules=tuple((name, None if name == "embed" else axes) for name, axes in self.rules))

    def devices(self, *axes: str) -> int:
        """Devices along some axes together."""
        return devices_along(self.mesh, axes)

    def mapped(self, run: Callable[..., Any], takes: Any, gives: Any) -> Callable[..., Any]:
        """`run` on each device's own parts; it writes its communication out itself."""
        return jax.shard_map(run, mesh=self.mesh, in_specs=takes, out_specs=gives, check_vma=False)


def entry(spec: PartitionSpec, axis: int) -> tuple[str, ...]:
    """The mesh axes that split one axis of an array."""
    return axes_of(spec[axis])


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def gathered(weight: Array, stored: NamedSharding, whole: NamedSharding) -> Array:
    """`weight`, moved from the one sharding to the other; its gradient goes back at once, as one reduce-scatter."""
    # the first constraint keeps a cast before the gather: half of the bytes travel
    return jax.lax.with_sharding_constraint(jax.lax.with_sharding_constraint(weight, stored), whole)


def _forward(weight: Array, stored: NamedSharding, whole: NamedSharding) -> tuple[Array, None]:
    return gathered(weight, stored, whole), None


def _backward(stored: NamedSharding, whole: NamedSharding, residual: None, gradient: Array) -> tuple[Array]:
    # JAX's own derivative of a constraint is the same constraint: the gradient would first be made `whole`, summed on
    # every device, and then cut. Asked for split, the sum over tokens becomes a reduce-scatter.
    return (jax.lax.with_sharding_constraint(gradient, stored),)


gathered.defvjp(_forward, _backward)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def contracted(layout: Layout, subscripts: str, names: tuple[str | None, ...], x: Array, weight: Array) -> Array:
    """einsum(subscripts, x, weight), the weight gathered for it.

    Nothing gathered is kept for the backward pass. There, each device multiplies its own tokens and the products are
    scattered to where the weight is stored as they are summed: XLA, left alone, sums them whole on every device.
    """
    return jnp.einsum(subscripts, x, layout.gather(weight, *names))


def _contracted(
    layout: Layout, subscripts: str, names: tuple[str | None, ...], x: Array, weight: Array
) -> tuple[Array, tuple[Array, Array]]:
    return contracted(layout, subscripts, names, x, weight), (x, weight)


def _pulled_back(
    layout: Layout, subscripts: str, names: tuple[str | None, ...], residuals: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    # "nsd,df->nsf" of x, weight gives "nsf,df->nsd" for the gradient of x and "nsd,nsf->df" for that of the weight
    x, weight = residuals
    inputs, made = subscripts.split("->")
    of_input, of_weight = inputs.split(",")
    # gathered once more: keeping it from the forward pass would keep every layer of the model whole
    back = jnp.einsum(f"{made},{of_weight}->{of_input}", gradient, layout.gather(weight, *names))
    product = f"{of_input},{made}->{of_weight}"
    stored = layout.spec(weight.shape, *names)
    at = names.index("embed")
    columns = entry(stored, at)

    def place(array: Array, letters: str) -> PartitionSpec:
        """Tokens as they are split, and what the weight's axes are split over, but for its columns."""
        # what tensor parallelism splits (f, heads) is split alike in the activation: each device makes its own part of
        # that axis, from all of the width
        of_axis = dict(zip(of_weight, (*stored[:at], None, *stored[at + 1 :]), strict=True))
        first = layout.spec(array.shape[:2], "rows", "sequence")
        return PartitionSpec(*first, *(of_axis[letter] for letter in letters[2:]))

    here, there = place(x, of_input), place(gradient, made)
    tokens = (*entry(here, 0), *entry(here, 1))
    # rows that do not divide over an axis are repeated along it (`spec`): a sum over devices would count them again
    if not {*columns} <= {*tokens}:
        whole = jnp.einsum(product, x, gradient)
        return back, jax.lax.with_sharding_constraint(whole, NamedSharding(layout.mesh, stored))

    def local(x: Array, gradient: Array) -> Array:
        found = jnp.einsum(product, x, gradient)
        # the sum over tokens, as far as the columns are stored split, leaves each device only what it keeps of it
        if columns:
            found = jax.lax.psum_scatter(found, columns, scatter_dimension=at, tiled=True)
        others = tuple(axis for axis in tokens if axis not in columns and layout.devices(axis) > 1)
        return jax.lax.psum(found, others) if others else found

    return back, layout.mapped(local, (here, there), stored)(x, gradient)


contracted.defvjp(_contracted, _pulled_back)
