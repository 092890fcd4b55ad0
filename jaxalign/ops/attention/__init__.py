"""Attention of token rows that are trees, on one device or on a mesh: `attend`."""

from jaxalign.ops.attention.behind import Behind
from jaxalign.ops.attention.dispatch import Sight, attend
from jaxalign.ops.attention.sight import Shown, Tree

__all__ = ["Behind", "Shown", "Sight", "Tree", "attend"]
