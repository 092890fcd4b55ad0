"""Tabular populations of four answers, on which the minimisers of losses are computed.

S are rewards and μ the reference, from which pairs are drawn; a policy is named by its log-ratio to μ but for a
constant.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.types import GroupLogps, Labels, Loss

S = np.array([0.3, -0.8, 1.1, 0.0])
MU = np.array([0.1, 0.4, 0.2, 0.3])
ELSE = np.array([0.5, 0.2, -0.4, 0.9])
"""Rewards of another objective."""
CYCLE = 0.5 + np.array([[0, 0.3, -0.2, 0.1], [-0.3, 0, 0.4, -0.1], [0.2, -0.4, 0, 0.3], [-0.1, 0.1, -0.3, 0]])
"""Preferences that no reward explains."""
WIN = CYCLE @ MU
ASIDE = np.array([0.3, 0, 0, 0])


def odds(rewards: np.ndarray) -> np.ndarray:
    """P(i ≻ j) of Bradley and Terry."""
    return 1 / (1 + np.exp(rewards[None, :] - rewards[:, None]))


PAIRS = np.array([(i, j) for i in range(4) for j in range(4) if i != j])


def slope(
    loss: Loss, ratio: np.ndarray, prefer: np.ndarray, groups: np.ndarray, reference: np.ndarray = MU
) -> np.ndarray:
    """Gradient by the logits of the mean loss of groups of answers, by their probability under the reference."""
    weight = reference[groups].prod(-1)
    log_mu = jnp.asarray(np.log(reference)[groups], jnp.float32)
    labels = Labels.of_one(
        jnp.asarray(prefer[groups[:, 0], groups[:, 1]], jnp.float32),
        jnp.asarray(WIN[groups], jnp.float32),
        jnp.asarray(ELSE[groups], jnp.float32),
    )

    def mean(logits: jax.Array) -> jax.Array:
        likely = jax.nn.log_softmax(logits)
        tokens = likely[groups][..., None]
        spread = jnp.broadcast_to(jax.nn.logsumexp(2 * likely), tokens.shape)
        whole = jnp.ones(tokens.shape, bool)
        seen = GroupLogps(tokens, whole, log_mu, log_mu, labels, log_sum_p2=spread, anchor_tokens=log_mu[..., None])
        seen = dataclasses.replace(seen, edited=jnp.asarray(groups, jnp.int32)[..., None])
        return (loss(seen) * jnp.asarray(weight / weight.sum(), jnp.float32)).sum()

    return np.asarray(jax.jit(jax.grad(mean))(jnp.asarray(np.log(reference) + ratio, jnp.float32)))


def seen_of(ratio: jax.Array, groups: np.ndarray, labels: Labels, reference: np.ndarray) -> GroupLogps:
    """Answers of one token with these log-ratios to the reference, all of one weight."""
    log_mu = jnp.asarray(np.log(reference)[groups], jnp.float32)
    tokens = (ratio[groups] + log_mu)[..., None]
    return GroupLogps(tokens, jnp.ones(tokens.shape, bool), log_mu, log_mu, labels, weight=jnp.ones(len(groups)))


def told(prefer: np.ndarray, groups: np.ndarray, score: np.ndarray | None = None) -> Labels:
    """Labels of these probabilities, with win rates by `WIN` and the given scores."""
    win = jnp.asarray(WIN[groups], jnp.float32)
    return Labels.of_one(
        jnp.asarray(prefer, jnp.float32), win, None if score is None else jnp.asarray(score, jnp.float32)
    )


def steepest(loss: Loss, ratio: np.ndarray, groups: np.ndarray, labels: Labels, weight: np.ndarray) -> float:
    """Largest slope by a log-ratio of the mean loss, every answer's ratio being free: no policy has to sum to 1."""
    share = jnp.asarray(weight / weight.sum(), jnp.float32)
    mean = lambda free: (loss(seen_of(free, groups, labels, MU)) * share).sum()  # noqa: E731
    return float(np.abs(jax.jit(jax.grad(mean))(jnp.asarray(ratio, jnp.float32))).max())


EVERY = np.ones(len(PAIRS))
CHOSEN = (CYCLE.sum(1) - 0.5) / 3
"""How often each answer is the chosen one, of the pairs that it is in."""


def drift(loss: Loss, policy: np.ndarray, groups: np.ndarray, labels: Labels, weight: np.ndarray) -> float:
    """Largest slope by a logit of the mean loss of the groups by this weight; the reference is even."""
    share, even = jnp.asarray(weight / weight.sum(), jnp.float32), np.full(4, 0.25)

    def mean(logits: jax.Array) -> jax.Array:
        ratio = jax.nn.log_softmax(logits) - jnp.asarray(np.log(even), jnp.float32)
        return (loss(seen_of(ratio, groups, labels, even)) * share).sum()

    return float(np.abs(jax.jit(jax.grad(mean))(jnp.asarray(np.log(policy), jnp.float32))).max())


def towards(rewards: np.ndarray) -> np.ndarray:
    """The policy that has these log-probs but for a constant."""
    raised = np.exp(rewards)
    return raised / raised.sum()


FIRST = np.array([[best, *(each for each in range(4) if each != best)] for best in range(4)])
ORDERS = np.concatenate([PAIRS, PAIRS])
"""Each pair twice: won by its first answer, and by its second."""
WON = np.repeat([[1.0, 0.0], [0.0, 1.0]], len(PAIRS), axis=0)
LIKELY = odds(S)[PAIRS[:, 0], PAIRS[:, 1]]
