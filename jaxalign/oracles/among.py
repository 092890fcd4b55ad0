"""What oracles share that ask another one: its names, and what it says of prompts of one's own among those that all
processes of a run judge together."""

from collections.abc import Iterable

import jax
import numpy as np
from jaxtyping import Int, PRNGKeyArray

from jaxalign.contracts.scope import Named, OpenableOracle, Together
from jaxalign.rollouts.shares import picked
from jaxalign.types import Oracle, Preferences, Rollouts


def unnamed(oracle: Oracle | OpenableOracle) -> Iterable[str]:
    """The problem of an oracle that does not say its annotators."""
    if not isinstance(oracle, Named):
        yield f"oracle {type(oracle).__name__} must say the `names` of its annotators"


def names_of(oracle: Oracle | OpenableOracle) -> tuple[str, ...]:
    """The annotators of an oracle that says them."""
    assert isinstance(oracle, Named)
    return oracle.names


def among(
    oracle: Oracle | OpenableOracle, rollouts: Rollouts, own: Int[np.ndarray, " k"], key: PRNGKeyArray
) -> Preferences:
    """What an open oracle says of the prompts numbered `own`; all processes ask about the same rollouts in step.

    An oracle that knows of no other process is asked about these prompts and no others, so that each is asked once.
    Raises TypeError where it is not open.
    """
    if not isinstance(oracle, Oracle):
        raise TypeError(f"oracle {type(oracle).__name__} answers inside a scope only: open what asks it")
    if isinstance(oracle, Together):
        return oracle.among(rollouts, own, key)
    if len(own):
        return oracle(picked(rollouts, own), key)
    # more processes than prompts: oracles want at least one
    return jax.tree.map(lambda rows: rows[:0], oracle(picked(rollouts, slice(0, 1)), key))
