"""Rollouts of random tokens and groups of their responses, by number: what rows are packed from."""

import numpy as np

from jaxalign.rollouts.shares import given
from jaxalign.types import Groups, Labels, Rollouts


def rollouts(prompts: int = 3, samples: int = 4, longest: int = 6, seed: int = 0) -> Rollouts:
    rng = np.random.default_rng(seed)
    prompt_lengths = rng.integers(1, 8, prompts).astype(np.int32)
    lengths = rng.integers(1, longest + 1, (prompts, samples)).astype(np.int32)
    prompt_tokens = np.where(np.arange(8) < prompt_lengths[:, None], rng.integers(1, 99, (prompts, 8)), 0)
    tokens = np.where(np.arange(longest) < lengths[..., None], rng.integers(100, 199, (prompts, samples, longest)), 0)
    return given(prompt_tokens.astype(np.int32), prompt_lengths, tokens.astype(np.int32), lengths)


def groups(prompt: list[int], responses: list[list[int]]) -> Groups:
    count = len(prompt)
    return Groups(
        prompt=np.array(prompt),
        responses=np.array(responses),
        weight=np.arange(1, count + 1).astype(np.float32),
        labels=Labels.of_one(
            prefer=np.linspace(0.5, 1, count).astype(np.float32),
            win=np.linspace(0, 1, count * len(responses[0])).reshape(count, -1).astype(np.float32),
        ),
    )
