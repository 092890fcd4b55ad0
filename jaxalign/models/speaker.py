"""What rollouts ask of: a model, or several that speak together as one would."""

from jaxalign.models.geometric import Geometric
from jaxalign.models.model import Model

Speaker = Model | Geometric
"""Scores of the next token, token after token: `hidden`, `logits`, `prefill`, `unstacked` and `decode` of `Model`."""
