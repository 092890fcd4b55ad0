"""Log-probs of tokens straight from hidden states and the head: `linear_logp`, `linear_stats`."""

from jaxalign.ops.linear_logp.dispatch import linear_logp, linear_stats
from jaxalign.ops.linear_logp.logits import Logits
from jaxalign.ops.linear_logp.options import IMPLEMENTATIONS, LogpOptions
from jaxalign.ops.linear_logp.sharded import OnMesh, on_layout
from jaxalign.ops.linear_logp.stats import OUTPUTS, LinearStats

__all__ = [
    "IMPLEMENTATIONS",
    "OUTPUTS",
    "LinearStats",
    "Logits",
    "LogpOptions",
    "OnMesh",
    "linear_logp",
    "linear_stats",
    "on_layout",
]
