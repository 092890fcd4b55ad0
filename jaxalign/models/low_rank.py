"""LoRA: a trained low-rank difference beside a frozen matrix, as a view of the parameter.

    W + (alpha / rank) A B,   A [in, rank] ~ N(0, 1 / in), B [rank, out] = 0 at first

Hu et al. 2021 (arXiv 2106.09685). A `LowRank` stands in the tree of parameters where its matrix was: whatever computes
with the tree reads the sum, one layer at a time inside the scan over layers, and cannot tell; layers' products alone
look inside, for their gradients (`products`). With B = 0, or `switched off`, it is the base exactly: that is what
references of an adapter run are.

Trees of one policy are taken apart and put together here: what is trained and stored (`trained`: A, B and what is
`Whole` alone, or everything where nothing is adapted) and what all policies of a run share (`frozen`).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxalign.models.quantised import Quantised
from jaxalign.types import Params, pytree

WHOLE = "whole"
"""Where the trees of what is trained have a parameter that is trained as it is."""


@pytree
class Whole:
    """A parameter of an adapted model that is trained as it is: the head of a score model. `None` stands for it in
    what is frozen."""

    value: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the parameter."""
        return tuple(self.value.shape)

    @property
    def ndim(self) -> int:
        """Axes of the parameter."""
        return len(self.shape)

    def __getitem__(self, everything: Any) -> Float[Array, "..."]:
        """`leaf[...]`, as modules read parameters."""
        return self.value[everything]


@pytree
class LowRank:
    """base + scale · A B. Leading axes of `a` [*lead, *in, rank] and `b` [*lead, rank, *out] are those of `base`."""

    base: Any
    a: Any
    b: Any
    scale: float = dataclasses.field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the matrix that it stands for."""
        return tuple(self.base.shape)

    @property
    def ndim(self) -> int:
        """Axes of the matrix that it stands for."""
        return len(self.shape)

    def __getitem__(self, everything: Any) -> Float[Array, "..."]:
        """`leaf[...]`, as modules read parameters."""
        if everything is not Ellipsis:
            raise TypeError("a low-rank parameter is read whole: leaf[...]")
        return self.dense()

    def dense(self) -> Float[Array, "..."]:
        """The sum, in the dtype of the base or fp32 where that is quantised."""
        base = self.base.dense() if isinstance(self.base, Quantised) else self.base
        lead = self.a.ndim + self.b.ndim - 2 - base.ndim
        ahead, rank = base.shape[:lead], self.a.shape[-1]
        product = self.a.reshape(*ahead, -1, rank) @ self.b.reshape(*ahead, rank, -1)
        return base + (self.scale * product).reshape(base.shape).astype(base.dtype)


def is_low_rank(leaf: Any) -> bool:
    """Whether it is a leaf of adapted parameters, to maps over such trees."""
    return isinstance(leaf, LowRank)


def is_whole(leaf: Any) -> bool:
    """Whether it is a leaf that is trained whole beside adapted ones, to maps over such trees."""
    return isinstance(leaf, Whole)


def is_trained(leaf: Any) -> bool:
    """Whether the leaf of an adapted model holds what an optimizer changes."""
    return is_low_rank(leaf) or is_whole(leaf)


def is_adapted(params: Params) -> bool:
    """Whether a part of the parameters is trained, and the rest is not."""
    return any(map(is_trained, jax.tree.leaves(params, is_leaf=is_trained)))


def head_alone(params: Params) -> bool:
    """Whether what is trained is trained as it is, and nothing below it changes: a head on a frozen trunk."""
    return is_adapted(params) and not any(map(is_low_rank, jax.tree.leaves(params, is_leaf=is_trained)))


def dense(params: Any) -> Any:
    """The tree with every sum carried out."""
    return jax.tree.map(_dense, params, is_leaf=is_trained)


def trained(params: Params) -> Params:
    """What an optimizer changes: {"a", "b"} at the adapted paths and {"whole"} where parameters are trained as they
    are, or all of `params` when nothing is adapted."""
    return _changing(params) if is_adapted(params) else params


def frozen(params: Params) -> Params:
    """What it does not: `params` without what is trained, or nothing when nothing is adapted."""
    return jax.tree.map(_emptied, params, is_leaf=is_trained) if is_adapted(params) else {}


def join(trained: Params, frozen: Params) -> Params:
    """The policy whose parts these are."""
    return _joined(trained, frozen) if frozen else trained


def dropped(params: Params, rate: float, key: PRNGKeyArray) -> Params:
    """Inputs of the differences zeroed at `rate`, the others scaled up.

    A deliberate departure from dropout by token: the view has no tokens, so a step draws one mask of input features
    for each matrix, and all its tokens share it.
    """
    leaves, structure = jax.tree.flatten(params, is_leaf=is_low_rank)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(
        structure,
        [_dropped(leaf, rate, each) if is_low_rank(leaf) else leaf for leaf, each in zip(leaves, keys, strict=True)],
    )


def _dropped(leaf: LowRank, rate: float, key: PRNGKeyArray) -> LowRank:
    # a mask of the inputs is one of the rows of A: (mask ∘ x) A = x (mask ∘ A)
    kept = jax.random.bernoulli(key, 1.0 - rate, (*leaf.a.shape[:-1], 1))
    return dataclasses.replace(leaf, a=jnp.where(kept, leaf.a / (1.0 - rate), 0.0))


def _dense(leaf: Any) -> Any:
    if is_low_rank(leaf):
        return leaf.dense()
    return leaf.value if is_whole(leaf) else leaf


def _emptied(leaf: Any) -> Any:
    if is_low_rank(leaf):
        return dataclasses.replace(leaf, a=None, b=None)
    return Whole(None) if is_whole(leaf) else leaf


def _changing(params: Params) -> Params:
    found: Params = {}
    for name, leaf in params.items():
        if is_low_rank(leaf):
            found[name] = {"a": leaf.a, "b": leaf.b}
        elif is_whole(leaf):
            found[name] = {WHOLE: leaf.value}
        elif isinstance(leaf, dict) and (inner := _changing(leaf)):
            found[name] = inner
    return found


def _joined(trained: Any, frozen: Any) -> Any:
    if is_low_rank(frozen):
        return dataclasses.replace(frozen, a=trained["a"], b=trained["b"])
    if is_whole(frozen):
        return Whole(trained[WHOLE])
    if isinstance(frozen, dict):
        return {name: _joined(trained.get(name, {}), leaf) for name, leaf in frozen.items()}
    return frozen
