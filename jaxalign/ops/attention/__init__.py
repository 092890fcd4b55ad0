"""Attention of token rows that are trees, on one device or on a mesh: `attend`."""

from jaxalign.ops.attention.behind import Apart, Behind, Progress, Together
from jaxalign.ops.attention.dispatch import Sight, attend
from jaxalign.ops.attention.sight import Shown, Tree

__all__ = ["Apart", "Behind", "Progress", "Shown", "Sight", "Together", "Tree", "attend"]
