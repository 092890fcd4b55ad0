"""A population whose preferences go in a circle: a general preference model learns it, Bradley–Terry cannot.

Texts are of three kinds, told by how they begin; each kind beats the next, as paper does rock. No reward orders them:
the best that rewards can do is to be equal, a loss of ln 2 on every pair, and any order of three kinds is right on two
pairs of three.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxalign.data.groups import RolledGroups
from jaxalign.losses.bradley_terry import BradleyTerry
from jaxalign.losses.general_preference import GeneralPreference
from jaxalign.models.headed import Headed
from jaxalign.models.random_llama import RandomLlama
from jaxalign.rollouts.shares import given
from jaxalign.training.rows import pack, row_shape
from jaxalign.training.step import init_state, make_step
from jaxalign.training.views import group_scores, view_of
from jaxalign.types import Batch, Groups, Labels

KINDS = ("paper", "rock", "scissors")
PROMPT = b"Show!"
PAIRS, STEPS, TRAINED = 48, 150, 40


def text(kind: int, rng: np.random.Generator) -> bytes:
    return f"{KINDS[kind]} {rng.integers(100, 1000)}".encode()


def pairs(seed: int) -> Batch:
    """Pairs of different kinds in either order, two responses to one prompt each."""
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 3, PAIRS)
    second = (first + rng.integers(1, 3, PAIRS)) % 3
    prefer = ((first + 1) % 3 == second).astype(np.float32)
    answers = [[text(one, rng), text(other, rng)] for one, other in zip(first, second, strict=True)]
    lengths = np.array([[len(answer) for answer in pair] for pair in answers], np.int32)
    tokens = np.zeros((PAIRS, 2, lengths.max()), np.int32)
    for at in np.ndindex(PAIRS, 2):
        tokens[at][: lengths[at]] = np.frombuffer(answers[at[0]][at[1]], np.uint8) + 3
    prompt = np.tile(np.frombuffer(PROMPT, np.uint8).astype(np.int32) + 3, (PAIRS, 1))
    rolled = given(prompt, np.full(PAIRS, len(PROMPT), np.int32), tokens, lengths)
    votes = prefer[:, None]
    groups = Groups(
        prompt=np.arange(PAIRS),
        responses=np.tile(np.arange(2), (PAIRS, 1)),
        weight=np.ones(PAIRS, np.float32),
        labels=Labels(prefer, None, None, votes, np.ones_like(votes)),
    )
    return jax.tree.map(
        jnp.asarray, pack(RolledGroups(rolled, groups), np.arange(PAIRS), row_shape(RolledGroups(rolled, groups)), {})
    )


def learned(loss, outputs: int) -> tuple[float, float]:
    """Loss and accuracy on pairs that nobody trained on, after a fit of the whole model."""
    model = Headed(RandomLlama(context=64), outputs=outputs).open()
    optimizer = optax.adam(3e-3)
    step = jax.jit(make_step(view_of(model, loss), optimizer, optax.constant_schedule(3e-3)))
    state, batches = init_state(model.load(), optimizer), [pairs(seed) for seed in range(TRAINED)]
    for index in range(STEPS):
        batch = jax.tree.map(lambda leaf: leaf[None], batches[index % TRAINED])
        state, _ = step(state, {}, {}, batch)
    seen = group_scores(model, state.params, pairs(1000))
    return float(loss(seen).mean()), float(loss.accuracies(seen).mean())


def test_a_general_preference_model_learns_a_cycle():
    loss, accuracy = learned(GeneralPreference(), 2)
    assert accuracy > 0.95
    assert loss < 0.2


@pytest.mark.slow
def test_rewards_cannot():
    loss, accuracy = learned(BradleyTerry(), 1)
    assert loss == pytest.approx(math.log(2), abs=0.05)
    assert accuracy < 0.75  # two of three, and what 48 pairs differ by
