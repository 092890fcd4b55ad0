"""Which comparisons are the same, and which prompts: 64 bits of what they say, so that a million fit in little memory.

Two different texts of a million meet in 64 bits with a probability of 3e-8.
"""

import hashlib
import json
from dataclasses import dataclass

import numpy as np

from jaxalign.data.comparisons.by_prompt import said
from jaxalign.data.comparisons.record import Comparison


@dataclass(frozen=True)
class Digests:
    """Of one comparison: its prompt, its answers with their prompt in whatever order, and which of them is first."""

    prompt: int
    answers: int
    turned: bool


def digests(comparison: Comparison) -> Digests:
    """What tells whether two comparisons are about the same."""
    prompt, ordered = said(comparison.prompt), tuple(sorted(comparison.answers))
    return Digests(digest(prompt), digest(json.dumps([prompt, ordered])), ordered != comparison.answers)


def digest(content: str | bytes, signed: bool = False) -> int:
    """64 bits of SHA-256."""
    data = content.encode() if isinstance(content, str) else content
    return int.from_bytes(hashlib.sha256(data).digest()[:8], signed=signed)


def different(digests: np.ndarray) -> int:
    """How many there are, each counted once. Sorted, they take 8 bytes each for a moment; a set of them takes 40."""
    ordered = np.sort(digests)
    return min(len(ordered), 1) + int(np.count_nonzero(ordered[1:] != ordered[:-1]))
