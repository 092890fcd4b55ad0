"""Win rates between policies on held-out prompts under the oracle.

    win rate(A, B) = mean over prompts of Σ_ij wA_i wB_j P(y_i ≻ y′_j)

over all pairs of an answer of A and one of B (w = 1/m for samples). Identical texts are at 1/2. Answers of two policies
are independent, each drawn with keys of its own, so every pair is one of the product law that a game is defined by. A
policy against itself is at exactly 1/2, with a pair of one answer and itself or without. Errors and intervals are over
prompts (`intervals`): they, not answers, are what is sampled, and several answers make each prompt's rate more exact.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from jaxalign.evals import comparable, length_control
from jaxalign.evals.comparable import both_finished, equally_long, rate_among
from jaxalign.evals.context import HeldOut, in_role, role_problems
from jaxalign.evals.intervals import EVEN, ByPrompt, Estimate, estimated
from jaxalign.evals.length_control import length_controlled
from jaxalign.evals.side_by_side import joint_preferences
from jaxalign.types import Metrics, Preferences, Rollouts


@dataclass(frozen=True)
class WinRate:
    """The evaluated policy against others; an opponent that does not exist yet is left out.

    Metrics, in [0, 1], each with its standard error over prompts `…_stderr` and its 95 % interval `…_ci95_low` and
    `…_ci95_high`:

        win_rate/vs_<role>                     over all pairs of answers
        win_rate_length_controlled/vs_<role>   at equal length, by a model of what length does (`length_control`)
        win_rate_finished/vs_<role>            over pairs of answers that both end by themselves (`comparable`)
        win_rate_equally_long/vs_<role>        over pairs of about equal lengths

    The last two come with the share of pairs that they are over, `…_share`, and alone where it is 0;
    `win_rate/vs_<role>/<annotator>` is each annotator's alone.
    """

    against: tuple[str, ...] = ("base", "previous")

    needs: ClassVar[tuple[str, ...]] = ("answers", "oracle")

    def problems(self) -> Iterable[str]:
        yield from role_problems(self.against)

    def asks(self, names: Sequence[str], others: Sequence[str]) -> Iterable[tuple[str, ...]]:
        """About each opponent that there is."""
        del others
        return [(names[-1], name) for role in self.against if (name := in_role(role, names)) is not None]

    def __call__(self, context: HeldOut) -> Metrics:
        metrics: Metrics = {}
        for role in self.against:
            name = context.opponent(role)
            if name is None:
                continue
            pair = (context.current, context.answers(name))
            itself = name == context.names[-1]
            for kind, (found, share) in rates(context.preferences(name), pair).items():
                if share is not None:
                    metrics[f"{kind}/vs_{role}_share"] = share
                if found is not None:
                    metrics |= (EVEN if itself else found).metrics(f"{kind}/vs_{role}")
            for annotator, alone in of_annotators(context.preferences(name), pair).items():
                metrics[f"win_rate/vs_{role}/{annotator}"] = alone
        return metrics


Rate = tuple[Estimate | None, float | None]
"""A rate, None where no pair is of its kind; and the share of pairs that are, None where all are."""


def rates(preferences: Preferences, pair: tuple[Rollouts, Rollouts]) -> dict[str, Rate]:
    """The first policy's win rates against the second by their kinds: over all pairs, and what makes them comparable.

    `preferences` are among the answers of both, policy after policy along m.
    """
    samples = pair[0].lengths.shape[1]
    prefer = preferences.prefer[:, :samples, samples:]
    found: dict[str, Rate] = {
        "win_rate": (estimated(between(preferences.prefer, pair)[:, 0, 1]), None),
        "win_rate_length_controlled": (length_controlled(preferences, pair), None),
    }
    for kind, of in (("win_rate_finished", both_finished), ("win_rate_equally_long", equally_long)):
        share, rate = rate_among(of(*pair), prefer, *pair)
        found[kind] = rate, share
    return found


def rates_by_prompt(preferences: Preferences, pair: tuple[Rollouts, Rollouts]) -> dict[str, ByPrompt]:
    """The same rates by their kinds as a number a prompt, whose mean each of them is: the prompt's own rate, or to
    first order what it says of the rate. A kind that no pair is of is left out."""
    samples = pair[0].lengths.shape[1]
    prefer = preferences.prefer[:, :samples, samples:]
    found = {
        "win_rate": ByPrompt(between(preferences.prefer, pair)[:, 0, 1], float(len(prefer))),
        "win_rate_length_controlled": ByPrompt(length_control.linearised(preferences, pair), float(len(prefer))),
    }
    for kind, of in (("win_rate_finished", both_finished), ("win_rate_equally_long", equally_long)):
        each = comparable.linearised(of(*pair), prefer, *pair)
        if each is not None:
            found[kind] = each
    return found


def of_annotators(preferences: Preferences, pair: tuple[Rollouts, Rollouts]) -> dict[str, float]:
    """The first policy's win rate by each annotator alone."""
    alone = (between(preferences.by_annotator[:, index], pair) for index in range(len(preferences.annotators)))
    return {name: float(each[:, 0, 1].mean()) for name, each in zip(preferences.annotators, alone, strict=True)}


def win_rate_matrix(context: HeldOut) -> tuple[tuple[str, ...], Float[np.ndarray, "k k"]]:
    """Names of all policies and [i, j] = win rate of policy i against policy j; complements add up to exactly 1."""
    return context.names, matrix_of(context, among_all(context))


def among_all(context: HeldOut) -> Preferences:
    """The oracle's preferences among the answers of all policies, policy after policy along m."""
    return joint_preferences(context.oracle, list(context.responses.values()), context.key)


def matrix_of(context: HeldOut, preferences: Preferences) -> Float[np.ndarray, "k k"]:
    """[i, j] = win rate of policy i against policy j by `preferences` among the answers of all of them."""
    return np.asarray(between(preferences.prefer, list(context.responses.values())).mean(0))


def between(prefer: Float[np.ndarray, "b m m"], policies: Sequence[Rollouts]) -> Float[np.ndarray, "b k k"]:
    """Each prompt's win rates between k policies whose answers lie policy after policy along m.

    Summed as advantages P − 1/2 and rounded to multiples of 2^-40, so that complements stay exact through sums.
    """
    owner = np.repeat(np.arange(len(policies)), [rollouts.weights.shape[1] for rollouts in policies])
    weights = np.concatenate([rollouts.weights for rollouts in policies], 1).astype(np.float64)
    share = weights[:, :, None] * (owner[:, None] == np.arange(len(policies)))
    advantage = np.einsum("bik,bij,bjl->bkl", share, prefer.astype(np.float64) - 0.5, share)
    advantage = (advantage - advantage.swapaxes(1, 2)) / 2
    return 0.5 + np.round(advantage * 2**40) / 2**40


def format_matrix(names: Sequence[str], matrix: Float[np.ndarray, "k k"]) -> str:
    """Plain-text table: row policy's win rate against column policy, per cent."""
    wide = max(len(name) for name in names)
    head = " " * wide + "".join(f"  {name:>{max(len(name), 5)}}" for name in names)
    body = [
        f"{name:<{wide}}"
        + "".join(f"  {100 * rate:>{max(len(other), 5)}.1f}" for other, rate in zip(names, row, strict=True))
        for name, row in zip(names, matrix, strict=True)
    ]
    return "\n".join([head, *body])


EXAMPLE = WinRate()
