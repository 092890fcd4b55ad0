"""Learning from samples: n prompts, m actions each, votes on them, a pairing rule, and a language-model loss.

Every prompt is the same game, so n is the batch. Actions are drawn from the current policy, votes are one coin toss
for each pair (or the preference itself), and the loss is one of `jaxalign.losses`, minimised over the logits of
a softmax policy by Newton's method: the argmin that COMAL's Algorithm 3 (Liu et al. 2024, arXiv 2410.23223) asks for.
INPO and IPO are quadratic in the logits, so one step reaches it. The losses' own conventions hold: INPO's eta
multiplies the KL, the inverse of the step size elsewhere in `jaxalign.games`.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxalign.games.game import MatrixGame
from jaxalign.games.pairs import RandomPair, Rule
from jaxalign.types import GroupLogps, Labels, Loss, pytree

RIDGE = 1e-4
"""Share of the mean curvature added to it: actions that were not drawn, about which the data say nothing, stay put."""

REACH = 2.0
"""Longest move of a logit in a Newton step, nats: data that one policy separates have no finite Bradley-Terry fit."""


@runtime_checkable
class Votes(Protocol):
    """(key, prefer [n m m]) → votes [n m m], complementary with diagonal 1/2."""

    def __call__(self, key: PRNGKeyArray, prefer: Float[Array, "n m m"]) -> Float[Array, "n m m"]: ...


@dataclass(frozen=True)
class Bernoulli:
    """One toss a pair, 0 or 1; the two orders of a pair share it."""

    def __call__(self, key: PRNGKeyArray, prefer: Float[Array, "n m m"]) -> Float[Array, "n m m"]:
        above = jnp.triu((jax.random.uniform(key, prefer.shape) < prefer).astype(prefer.dtype), 1)
        below = jnp.tril(1.0 - jnp.swapaxes(above, -1, -2), -1)
        return above + below + 0.5 * jnp.eye(prefer.shape[-1], dtype=prefer.dtype)[None]


@dataclass(frozen=True)
class Soft:
    """The preferences themselves: what infinitely many votes would give."""

    def __call__(self, key: PRNGKeyArray, prefer: Float[Array, "n m m"]) -> Float[Array, "n m m"]:
        return prefer


@pytree
class Drawn:
    """Pairs [n 2] of actions, chosen first when the votes are certain, their labels, and each one's mean vote."""

    actions: Int[Array, "n 2"]
    prefer: Float[Array, " n"]
    win: Float[Array, "n 2"]


@pytree
class Sampling:
    """Policy and anchor, and the key of the next step."""

    logp: Float[Array, " v"]
    anchor: Float[Array, " v"]
    key: PRNGKeyArray


@dataclass(frozen=True)
class Sampled:
    """A learner of the loss on `prompts` sampled pairs a step; the anchor becomes the policy every `inner` steps.

    `inner` = 1 makes iterative IPO, DPO or SPPO of those losses, 0 keeps the anchor for good (INPO), others are COMAL.
    Seeds sweep through `seeded`; step sizes and regularisers (fp32) through a loss built inside the `vmap`; counts are
    shapes and stay fixed.
    """

    loss: Loss
    prompts: int = 256
    samples: int = 4
    inner: int = 0
    rule: Rule = RandomPair()
    votes: Votes = Bernoulli()
    newton: int = 3
    seed: int = 0

    def init(self, game: MatrixGame, start: Float[Array, " v"]) -> Sampling:
        return self.seeded(start, jax.random.key(self.seed))

    def seeded(self, start: Float[Array, " v"], key: PRNGKeyArray) -> Sampling:
        """The state from a key of one's own, for a sweep over seeds."""
        return Sampling(start, start, key)

    def step(self, game: MatrixGame, state: Sampling, t: Int[Array, ""]) -> Sampling:
        data = self.draw(game, state.logp, jax.random.fold_in(state.key, t))
        logp = self.fit(state, data)
        swap = (t + 1) % self.inner == 0 if self.inner else jnp.asarray(False)
        return Sampling(logp, jnp.where(swap, logp, state.anchor), state.key)

    def draw(self, game: MatrixGame, logp: Float[Array, " v"], key: PRNGKeyArray) -> Drawn:
        """Actions from the policy, votes on all their pairs, and the pair that the rule keeps."""
        action_key, vote_key, pair_key = jax.random.split(key, 3)
        actions = jax.random.categorical(action_key, logp, shape=(self.prompts, self.samples))
        votes = self.votes(vote_key, game.prefer[actions[:, :, None], actions[:, None, :]])
        first, second = self.rule(pair_key, actions, votes)
        row = jnp.arange(self.prompts)
        label = votes[row, first, second]
        # A certain vote decides who was chosen; then the label is 1, as in a language-model run.
        swap = label < 0.5
        first, second = jnp.where(swap, second, first), jnp.where(swap, first, second)
        pair = jnp.stack([first, second], -1)
        win = jnp.take_along_axis(votes.mean(-1), pair, -1)
        return Drawn(jnp.take_along_axis(actions, pair, -1), jnp.maximum(label, 1.0 - label), win)

    def fit(self, state: Sampling, data: Drawn) -> Float[Array, " v"]:
        """The policy of least mean loss on the pairs, started at the policy that drew them."""

        def mean_loss(logits: Float[Array, " v"]) -> Float[Array, ""]:
            return self.loss(pair_logps(jax.nn.log_softmax(logits), state, data)).mean()

        def newton(logits: Float[Array, " v"], _: None) -> tuple[Float[Array, " v"], None]:
            slope, curvature = jax.grad(mean_loss)(logits), jax.hessian(mean_loss)(logits)
            ridge = RIDGE * jnp.trace(curvature) / logits.size + jnp.finfo(logits.dtype).tiny
            move = jnp.linalg.solve(curvature + ridge * jnp.eye(logits.size, dtype=logits.dtype), slope)
            return logits - move / jnp.maximum(1.0, jnp.abs(move).max() / REACH), None

        logits, _ = jax.lax.scan(newton, state.logp, None, length=self.newton)
        return jax.nn.log_softmax(logits)


def pair_logps(logp: Float[Array, " v"], state: Sampling, data: Drawn) -> GroupLogps:
    """What the loss sees: one-token responses, with the sampling policy as `last`."""
    return GroupLogps(
        tokens=logp[data.actions][..., None],
        mask=jnp.ones((*data.actions.shape, 1), bool),
        last=state.logp[data.actions].astype(jnp.float32),
        anchor=state.anchor[data.actions].astype(jnp.float32),
        labels=Labels.of_one(data.prefer.astype(jnp.float32), data.win.astype(jnp.float32)),
    )
