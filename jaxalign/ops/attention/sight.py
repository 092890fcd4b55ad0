"""Which tokens a token sees: as a mask that somebody made, or by rule, so that no [s s] mask need exist.

Rows are trees (`types.Rows`): a token sees the tokens of its own group that are not later than itself and lie in the
trunk (branch 0) or in its own branch; a window leaves out those further back. Letters besides those of
`jaxalign.types`: q queries of a row, s its keys.
"""

import jax
from jaxtyping import Array, Bool, Int

from jaxalign.types import pytree


@pytree
class Tree:
    """Sight by rule. `group` is -1 on padding, which sees nothing. What a token sees never lies to its right."""

    group: Int[Array, "n s"]
    branch: Int[Array, "n s"]
    position: Int[Array, "n s"]

    def of(self, keys: "Tree", window: Int[Array, ""] | None) -> Bool[Array, "n q s"]:
        """[query, key]: whether these queries see those keys."""
        mine, theirs = (jax.tree.map(lambda ids: ids[:, :, None], self), jax.tree.map(lambda ids: ids[:, None], keys))
        same_group = (mine.group == theirs.group) & (mine.group >= 0)
        own_path = (theirs.branch == 0) | (theirs.branch == mine.branch)
        distance = mine.position - theirs.position
        near = distance >= 0 if window is None else (distance >= 0) & (distance < window)
        return same_group & own_path & near

    def mask(self, window: Int[Array, ""] | None = None) -> Bool[Array, "n s s"]:
        """[i, j]: whether token i of a row sees token j."""
        return self.of(self, window)


@pytree
class Shown:
    """Sight by mask: `shown[n, i, j]`, token i sees token j, if it is also within the window (then q = s)."""

    shown: Bool[Array, "n q s"]
    position: Int[Array, "n q"]

    def mask(self, window: Int[Array, ""] | None = None) -> Bool[Array, "n q s"]:
        """[i, j]: whether query i sees key j."""
        if window is None:
            return self.shown
        return self.shown & (self.position[:, :, None] - self.position[:, None, :] < window)
