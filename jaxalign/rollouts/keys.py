"""Which key each prompt of a rollout draws with: one folded with its number, or one of its own.

A run folds its prompts' numbers, for their order is part of the run. Who asks a list of prompts that may be asked in
another order tomorrow (`sample`, `eval`) gives each a key of what it says, so that its answers are its own whatever
else is asked. Engines take either and fold with `of_prompts`.
"""

import collections
import hashlib
import json
from collections.abc import Sequence
from functools import partial

import jax
import numpy as np
from jaxtyping import Array, Int, Key

from jaxalign.types import Prompt

Keys = Key[Array, ""] | Key[Array, " b"]
"""One for all prompts, to be folded with their numbers, or one for each prompt in their order."""


def of_prompts(keys: Keys, numbers: Int[np.ndarray, " *k"]) -> Key[Array, " *k"]:
    """The keys of the prompts with these numbers."""
    if keys.ndim:
        return keys[numbers]
    fold = partial(jax.random.fold_in, keys)
    for _ in range(numbers.ndim):
        fold = jax.vmap(fold)
    return fold(numbers)


def folded(keys: Keys, number: int) -> Keys:
    """Each of the keys, folded with a number."""
    fold = partial(jax.random.fold_in, data=number)
    return jax.vmap(fold)(keys) if keys.ndim else fold(keys)


def by_content(key: Key[Array, ""], prompts: Sequence[Prompt]) -> Key[Array, " b"]:
    """One key for each prompt, of what it says and of how often the same stood before it: answers of one that is asked
    twice are independent, and neither its place nor its neighbours matter."""
    before = collections.Counter[int]()
    numbers = []
    for said in map(_digest, prompts):
        numbers.append((said, before[said]))
        before[said] += 1
    digests, times = np.array(numbers, np.uint32).reshape(-1, 2).T
    return jax.vmap(lambda one, other: jax.random.fold_in(jax.random.fold_in(key, one), other))(digests, times)


def _digest(prompt: Prompt) -> int:
    """32 bits of what a prompt says, its name left out."""
    said = json.dumps([list(prompt.messages), list(prompt.tool_list or ())], sort_keys=True)
    return int.from_bytes(hashlib.sha256(said.encode()).digest()[:4], "big")
