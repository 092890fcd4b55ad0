"""Attention of token rows that are trees, on one device or on a mesh: `attend`."""

from jaxalign.ops.attention.dispatch import attend
from jaxalign.ops.attention.sight import Shown, Sight, Tree

__all__ = ["Shown", "Sight", "Tree", "attend"]
