"""Log-probs of tokens straight from hidden states and the head: `linear_logp`, `linear_stats`."""

from jaxalign.ops.linear_logp.dispatch import IMPLEMENTATIONS, linear_logp, linear_stats
from jaxalign.ops.linear_logp.sharded import OnMesh
from jaxalign.ops.linear_logp.stats import OUTPUTS, LinearStats

__all__ = ["IMPLEMENTATIONS", "OUTPUTS", "LinearStats", "OnMesh", "linear_logp", "linear_stats"]
