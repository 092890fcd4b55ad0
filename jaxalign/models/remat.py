"""What the backward pass keeps of a layer besides its input."""

from collections.abc import Callable, Mapping
from typing import Literal

import jax

Remat = Literal["none", "dots", "attention", "full"]

REMAT: Mapping[Remat, Callable[..., bool] | None] = {
    "none": None,
    "dots": jax.checkpoint_policies.save_only_these_names("product", "attention"),
    "attention": jax.checkpoint_policies.save_only_these_names("attention"),
    "full": jax.checkpoint_policies.nothing_saveable,
}
"""What the backward pass keeps of a layer besides its input, from most to least: everything, nothing is made again;
the results of its matrix products and of attention; those of attention alone; nothing."""


def tighter(remat: Remat) -> tuple[Remat, ...]:
    """The policies that keep less than this one, from most to least."""
    policies = tuple(REMAT)
    return policies[policies.index(remat) + 1 :]
