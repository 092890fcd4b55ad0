"""Prompts of one's own among those that all processes of a run judge together: `among`."""

import jax
import numpy as np
from jaxtyping import Int, PRNGKeyArray

from jaxalign.contracts.scope import Together
from jaxalign.rollouts.shares import picked
from jaxalign.types import Oracle, Preferences, Rollouts


def among(oracle: Oracle, rollouts: Rollouts, own: Int[np.ndarray, " k"], key: PRNGKeyArray) -> Preferences:
    """What an open oracle says of the prompts numbered `own`; all processes ask about the same rollouts in step.

    An oracle that knows of no other process is asked about these prompts and no others, so that each is asked once.
    """
    if isinstance(oracle, Together):
        return oracle.among(rollouts, own, key)
    if len(own):
        return oracle(picked(rollouts, own), key)
    # more processes than prompts: oracles want at least one
    return jax.tree.map(lambda rows: rows[:0], oracle(picked(rollouts, slice(0, 1)), key))
