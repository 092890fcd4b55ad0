"""A mixture of experts: each token goes through the few feed-forward layers that a router picks for it.

    y = Σ_{e in top-k} share_e · (act(x·gate_e) ∘ x·up_e) · down_e,      share = softmax(x·router)

Nothing is dropped and nothing padded: the token-expert pairs are sorted by expert, and products of ragged groups of
rows (`jax.lax.ragged_dot`) give each expert exactly its own. So a token's output does not depend on its company, and
a row, its prefill and its decoding agree. Where experts are split over a mesh, devices of that axis gather one
another's tokens, let their own experts add to each, and scatter the sums back: nothing depends on how tokens fall.
Letters besides those of `jaxalign.types`: e experts, z pairs, f width of an expert.

Shazeer et al. 2017 (1701.06538); routing without dropping: Gale et al. 2022 (2211.15841).
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from jaxalign.mesh.layout import Layout, entry
from jaxalign.models.layers import ACTIVATIONS, Activation, parameter


@dataclasses.dataclass(frozen=True)
class Mixture:
    """How many experts there are, how many a token goes through, their width, and whether their shares sum to 1."""

    experts: int
    chosen: int
    mlp: int
    normalised: bool


class Experts(nnx.Module):
    """The feed-forward layer of a decoder block, from a mixture."""

    def __init__(self, width: int, mixture: Mixture, activation: Activation, layout: Layout | None):
        count, mlp = mixture.experts, mixture.mlp
        self.mixture, self.activation, self.layout = mixture, activation, layout
        self.router = parameter((width, count), (None, None))
        self.gate = parameter((count, width, mlp), ("expert", "embed", "mlp"))
        self.up = parameter((count, width, mlp), ("expert", "embed", "mlp"))
        self.down = parameter((count, mlp, width), ("expert", "mlp", "embed"))

    def __call__(self, x: Float[Array, "n s d"]) -> Float[Array, "n s d"]:
        weights = [w[...].astype(x.dtype) for w in (self.router, self.gate, self.up, self.down)]
        if self.layout is None:
            tokens = x.reshape(-1, x.shape[-1])
            return self.mix(tokens, jnp.int32(0), *weights).reshape(x.shape)
        return self.on_mesh(self.layout, x, *weights)

    def on_mesh(
        self, layout: Layout, x: Float[Array, "n s d"], router: Array, gate: Array, up: Array, down: Array
    ) -> Float[Array, "n s d"]:
        """Each device's tokens through the experts of all devices along the axis that splits them."""
        here = layout.spec(x.shape, "rows", "sequence", None)
        inner, outer = (
            layout.spec(w.shape, *kernel.get_metadata("logical"))
            for w, kernel in ((gate, self.gate), (down, self.down))
        )
        split, _, mlp = inner
        columns = entry(inner, 1)
        if not {*columns} <= {*entry(here, 0), *entry(here, 1)}:  # the tokens are on all devices
            inner, outer, columns = P(split, None, mlp), P(split, mlp, None), ()

        def run(x: Array, router: Array, gate: Array, up: Array, down: Array) -> Array:
            tokens, first = x.reshape(-1, x.shape[-1]), jnp.int32(0)
            if columns:  # gathered here, so that gradients are scattered here
                gate, up = (jax.lax.all_gather(w, columns, axis=1, tiled=True) for w in (gate, up))
                down = jax.lax.all_gather(down, columns, axis=2, tiled=True)
            if split is not None:
                tokens = jax.lax.all_gather(tokens, split, axis=0, tiled=True)
                first = jax.lax.axis_index(split) * gate.shape[0]
            found = self.mix(tokens, first, router, gate, up, down)
            if mlp is not None:
                found = jax.lax.psum(found, mlp)
            if split is not None:
                found = jax.lax.psum_scatter(found, split, scatter_dimension=0, tiled=True)
            return found.reshape(x.shape)

        return layout.mapped(run, (here, P(), inner, inner, outer), here)(x, router, gate, up, down)

    def mix(
        self, tokens: Float[Array, "z d"], first: Int[Array, ""], router: Array, gate: Array, up: Array, down: Array
    ) -> Float[Array, "z d"]:
        """What the experts given, the `first` and those after it, add to each token."""
        share, chosen = self.route(tokens, router)
        # the pairs of these experts come first, in the order of experts; then those of others
        number = (chosen - first).reshape(-1) % self.mixture.experts
        order, count = jnp.argsort(number), gate.shape[0]
        sizes = jnp.bincount(number, length=count)
        found = self.through(tokens[order // self.mixture.chosen], sizes, gate, up, down)
        if count < self.mixture.experts:
            own = jnp.arange(number.shape[0]) < sizes.sum()
            found = jnp.where(own[:, None], found, 0)
        # back in the order of tokens: a sum over k neighbours has one order, a scatter has none
        apart = found[jnp.argsort(order)].reshape(*chosen.shape, -1)
        return jnp.einsum("zkd,zk->zd", apart.astype(jnp.float32), share).astype(tokens.dtype)

    def route(self, tokens: Float[Array, "z d"], router: Array) -> tuple[Float[Array, "z k"], Int[Array, "z k"]]:
        """Shares (fp32) and numbers of the experts of each token."""
        scores = (tokens @ router).astype(jnp.float32)
        share, chosen = jax.lax.top_k(jax.nn.softmax(scores, axis=-1), self.mixture.chosen)
        return (share / share.sum(-1, keepdims=True) if self.mixture.normalised else share), chosen

    def through(
        self, rows: Float[Array, "z d"], sizes: Int[Array, " e"], gate: Array, up: Array, down: Array
    ) -> Float[Array, "z d"]:
        """Rows through their experts; the first sizes[0] belong to the first expert, and so on."""
        product = jax.lax.ragged_dot
        inner = ACTIVATIONS[self.activation](product(rows, gate, sizes)) * product(rows, up, sizes)
        return product(inner, down, sizes)
