"""Attention of token rows that are trees, on one device or on a mesh: `attend`."""

from jaxalign.ops.attention.behind import Apart, Behind, Progress, Together
from jaxalign.ops.attention.dispatch import Sight, attend
from jaxalign.ops.attention.ring import balanced
from jaxalign.ops.attention.rounded import Rounded, rounded
from jaxalign.ops.attention.sight import Shown, Tree

__all__ = [
    "Apart",
    "Behind",
    "Progress",
    "Rounded",
    "Shown",
    "Sight",
    "Together",
    "Tree",
    "attend",
    "balanced",
    "rounded",
]
