"""What losses, samplers, combiners and optimizers return, looked at while a program is traced, never while it runs."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from jaxalign.contracts.arrays import described
from jaxalign.contracts.extras import EXTRAS, extras_of
from jaxalign.contracts.group_size import PAIR
from jaxalign.contracts.remembering import Remembers
from jaxalign.contracts.scores import GroupScores, ScoreLoss
from jaxalign.errors import BrokenContract, ConfigError, DataError
from jaxalign.types import Combiner, GroupLogps, Labels, Loss, Optimizer, Sampler

ROLES = ("last", "anchor")
"""The references that a loss can read."""

OUTSIDE = -(2**31)
"""In place of a token that a sampler drew and the vocabulary has not."""


def losses(loss: Loss | ScoreLoss, seen: Any) -> Float[Array, " b"]:
    """`loss` of each group of what it sees, GroupLogps or GroupScores. Raises BrokenContract unless it returns one fp32
    number a group: a mean hides weights."""
    found = loss(seen)
    groups = seen.prefer.shape[0]
    if not (isinstance(found, jax.Array) and found.shape == (groups,) and found.dtype == jnp.float32):
        raise BrokenContract(
            f"loss {type(loss).__name__}: must return one value a group, float32 [{groups}], got {got(found)}"
        )
    return found


def drawn(sampler: Sampler, logits: Float[Array, "b v"], keys: Key[Array, " b"]) -> Int[Array, " b"]:
    """Tokens that `sampler` draws, `OUTSIDE` for what is none of the vocabulary: whoever reads them knows whose fault
    that is. Raises BrokenContract unless they are one integer a row."""
    found, (rows, vocab) = sampler(logits, keys), logits.shape
    if not (isinstance(found, jax.Array) and found.shape == (rows,) and jnp.issubdtype(found.dtype, jnp.integer)):
        raise BrokenContract(
            f"sampler {type(sampler).__name__}: must return a token a row, int32 [{rows}], got {got(found)}"
        )
    return jnp.where((found >= 0) & (found < vocab), found, OUTSIDE).astype(jnp.int32)


def coefficients(combiner: Combiner, gram: Float[Array, "o o"]) -> Float[Array, " o"]:
    """What `combiner` makes of the Gram matrix. Raises BrokenContract unless it is one number an objective."""
    found, count = combiner(gram), gram.shape[0]
    if not (isinstance(found, jax.Array) and found.shape == (count,) and jnp.issubdtype(found.dtype, jnp.floating)):
        raise BrokenContract(
            f"combiner {type(combiner).__name__}: must return one coefficient an objective, float32 [{count}], got "
            f"{got(found)}"
        )
    return found.astype(jnp.float32)


def built(optimizer: Optimizer, steps: int) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """`optimizer` for a fit of `steps` steps. Raises BrokenContract unless it is a transformation and its schedule."""
    found: Any = optimizer.build(steps)
    # A transformation is a tuple of two functions itself: alone, it would unpack without a word.
    pair = type(found) is tuple and len(found) == 2
    if not (pair and isinstance(found[0], optax.GradientTransformation) and callable(found[1])):
        both = f"({described(found[0])}, {described(found[1])})" if pair else described(found)
        raise BrokenContract(
            f"optimizer {type(optimizer).__name__}: build must return (GradientTransformation, schedule), got {both}"
        )
    return found


def counts_itself(optimizer: Optimizer) -> bool:
    """Whether its rate follows a count in its state, as that of `optax.scale_by_learning_rate` or of schedules given to
    `optax.inject_hyperparams` does, and not the step that it is told."""
    transformation, _ = built(optimizer, 2)
    state = jax.eval_shape(transformation.init, {"weight": jax.ShapeDtypeStruct((1, 1), jnp.float32)})

    def counting(part: object) -> bool:
        injected = isinstance(part, optax.InjectStatefulHyperparamsState) and bool(part.hyperparams_states)
        return injected or isinstance(part, optax.ScaleByScheduleState)

    return any(map(counting, jax.tree.leaves(state, is_leaf=counting)))


def check_loss(
    loss: Loss | ScoreLoss,
    combiner: Combiner,
    said: Labels,
    there: tuple[str, ...] = ROLES,
    outputs: int = 0,
    responses: int = 2,
) -> None:
    """Raises what `losses` and `coefficients` raise, from the shapes of two groups: before there are any.

    `said` are labels of two groups with the columns that those of all groups have, `there` the references that can be
    had, `outputs` those of the model for a loss that reads some. Raises BrokenContract for a loss that needs a
    reference nobody knows, DataError for one that needs another than is `there`, or reads what the labels do not say,
    or no single annotator where the combiner keeps them apart.
    """
    count = combiner.objectives
    if count is not None and count < 1:
        raise BrokenContract(f"combiner {type(combiner).__name__}: objectives must be at least 1 or None, got {count}")
    if unknown := sorted(set(loss.needs) - set(ROLES)):
        raise BrokenContract(f"loss {type(loss).__name__}: needs {', '.join(unknown)}; there are {', '.join(ROLES)}")
    extras = extras_of(loss)
    if unknown := sorted(set(extras) - set(EXTRAS)):
        raise BrokenContract(f"loss {type(loss).__name__}: reads {', '.join(unknown)}; there are {', '.join(EXTRAS)}")
    name = type(loss).__name__
    if "edited" in extras and responses < PAIR:
        raise DataError(f"loss {name}: reads what two answers differ in (edited), and the feedback gives lone answers")
    if isinstance(loss, Remembers) and "batch" not in extras:
        raise BrokenContract(f"loss {name}: remembers from step to step, and must read batch: a step is all its groups")
    for role in set(loss.needs) - set(there):
        raise DataError(f"loss {name}: needs log-probs of the policy that sampled the pairs ({role}), and none did")
    labels = said if count is None else said.of_annotator(0)
    seen: GroupLogps | GroupScores
    if isinstance(loss, ScoreLoss):
        seen = GroupScores(jnp.zeros((2, responses, outputs)), labels)
    else:
        seen = two_groups(loss, labels, responses)
    try:
        jax.eval_shape(partial(losses, loss), seen)
    except DataError as error:
        raise DataError(f"loss {name}: {error}") from error
    jax.eval_shape(partial(coefficients, combiner), jnp.zeros((count or 1, count or 1)))


def two_groups(loss: Loss, labels: Labels, responses: int) -> GroupLogps:
    """Two groups with every column that `loss` reads; the references say 0 of everything."""
    extras, sums = extras_of(loss), jnp.zeros((2, responses))
    last, anchor = (sums if role in loss.needs else None for role in ROLES)
    tokens = -0.1 * jnp.arange(2 * responses * 3, dtype=jnp.float32).reshape(2, responses, 3)
    return GroupLogps(
        tokens,
        jnp.ones_like(tokens, bool),
        last,
        anchor,
        labels,
        log_sum_p2=tokens if "log_sum_p2" in extras else None,
        anchor_tokens=tokens if "anchor_tokens" in extras else None,
        stray=jnp.zeros(2) if "stray" in extras else None,
        edited=jnp.full(tokens.shape, -1).at[:, :, 1].set(7) if "edited" in extras else None,
        weight=jnp.ones(2) if "batch" in extras else None,
    )


def check_differences(loss: Loss, said: Labels, responses: int, name: str) -> None:
    """Raises ConfigError, of the reference of that `name`, unless `loss` descends the same way where the anchor's
    log-probs of all answers to a prompt are off by a constant of the prompt. `said` are labels as for `check_loss`."""
    score = None if said.score is None else jnp.tile(1000 - jnp.arange(responses, dtype=jnp.float32), (2, 1))
    votes = np.full_like(said.votes, 0.8)
    labels = jax.tree.map(
        jnp.asarray,
        dataclasses.replace(said, score=score, prefer=jnp.full(2, 0.8), votes=votes, decided=np.ones_like(votes)),
    )
    seen = two_groups(loss, labels, responses)
    # Margins of either sign, and constants by which one kind of answers changes its order and the other does not.
    seen = dataclasses.replace(seen, tokens=seen.tokens.at[1].set(seen.tokens[1, ::-1]))

    def slopes(off: Float[Array, " b"]) -> Float[Array, "b r t"]:
        anchor = jnp.zeros((2, responses)) + off[:, None]
        moved = partial(dataclasses.replace, seen, anchor=anchor)
        return jax.grad(lambda tokens: losses(loss, moved(tokens=tokens)).sum())(seen.tokens)

    if not np.allclose(slopes(jnp.zeros(2)), slopes(jnp.array([-1.0, -3.0])), rtol=1e-3, atol=1e-6):
        raise ConfigError(
            f"reference {name}: its log-probs are known but for a constant of each prompt, and {type(loss).__name__} "
            "reads them answer by answer; take a loss that compares the answers to a prompt, or another reference"
        )


def got(found: Any) -> str:
    """As `described`; constants of NumPy have the right shape and are not traced."""
    return "a NumPy array" if isinstance(found, np.ndarray) else described(found)


def check_sampler(sampler: Sampler, vocab: int) -> None:
    """Raises what `drawn` raises, from the shapes of two rows: before there are any, and before any compute."""
    jax.eval_shape(partial(drawn, sampler), jnp.zeros((2, vocab)), jax.random.split(jax.random.key(0)))
