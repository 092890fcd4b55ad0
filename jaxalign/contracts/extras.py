"""What a loss reads beyond the log-probs of its own group: declared by it, computed once, free where unread.

    log_sum_p2      log Σ_v π(v)² at each scored token, in the policy's own pass over the vocabulary
    anchor_tokens   log-probs of each token under the anchor, which must be live: stored columns are sums
    stray           log π/π_anchor of an answer to another prompt beside each group, where rows have one
    edited          ids of the tokens of a pair's two answers that have no match in the other, -1 elsewhere
    batch           the weights of the groups, and all groups of the optimizer's step at once, however they are split
                    into microbatches: its value of a group may depend on the others

They are fields of `GroupLogps`, None for losses that do not declare them.
"""

from typing import Protocol, runtime_checkable

EXTRAS = ("log_sum_p2", "anchor_tokens", "stray", "edited", "batch")


@runtime_checkable
class ReadsMore(Protocol):
    """A loss that reads such things."""

    @property
    def extras(self) -> tuple[str, ...]: ...


def extras_of(loss: object) -> tuple[str, ...]:
    """What `loss` reads beyond log-probs."""
    return loss.extras if isinstance(loss, ReadsMore) else ()
