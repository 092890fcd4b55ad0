"""What a policy or a score model makes of pairs that it is not trained on: the loss of each, and how it ranks the two
answers. Of lone answers: the loss, and whether it takes them for what people do."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxalign.contracts.group_size import LONE, strayed
from jaxalign.contracts.traced import losses
from jaxalign.data.groups import TrainingGroups
from jaxalign.mesh.flags import Options
from jaxalign.mesh.once import once
from jaxalign.mesh.rows import on_mesh, rows_here
from jaxalign.mesh.sharding import full_rows, replicated, row_sharding
from jaxalign.models.low_rank import join
from jaxalign.training.row_plan import plan_rows
from jaxalign.training.row_rule import Passes
from jaxalign.training.rows import pack, stack_microbatches
from jaxalign.training.views import View
from jaxalign.training.whole_batch import at_once
from jaxalign.types import Batch, GroupLogps, Metrics, Params


@dataclass(frozen=True)
class PairScores:
    """Of g pairs, or lone answers: the `loss` that a fit would descend, log-probs of the answers in nats under the
    policy (`sums`; of a score model its ranks) and under the `anchor` (zeros for a loss that reads none), what is said
    of them, `prefer` = P(0 ≻ 1) or P(desirable) and `weight`, a number for each `prompt`: pairs of one prompt say much
    the same, the answers' `lengths` in tokens, and `votes`, P(0 ≻ 1) of each annotator, 1/2 where it says nothing."""

    loss: Float[np.ndarray, " g"]
    sums: Float[np.ndarray, "g r"]
    anchor: Float[np.ndarray, "g r"]
    prefer: Float[np.ndarray, " g"]
    weight: Float[np.ndarray, " g"]
    prompt: Int[np.ndarray, " g"]
    lengths: Int[np.ndarray, "g r"]
    votes: Float[np.ndarray, "g o"] | None = None

    @property
    def margins(self) -> Float[np.ndarray, " g"]:
        """How much likelier the policy has made the first answer than the second, nats: by log π/π_anchor, or by log π
        where there is no anchor. Of a lone answer: how much likelier it was made."""
        rewards = (self.sums - self.anchor).astype(np.float64)
        return rewards[:, 0] if self.lone else rewards[:, 0] - rewards[:, 1]

    @property
    def lone(self) -> bool:
        """Whether answers are alone."""
        return self.sums.shape[1] == LONE

    @property
    def right(self) -> Float[np.ndarray, " g"]:
        """1 where the margin has the sign of the label, 1/2 where it is 0, else 0; NaN where the label is a tie."""
        side = self._side
        return np.where(side == 0, np.nan, (1 + np.sign(self.margins) * side) / 2)

    def of_annotator(self, index: int) -> dict[str, Float[np.ndarray, " g"]]:
        """`accuracy` and `margin_nats` by annotator `index` alone, the margin towards its choice; NaN where it says
        nothing."""
        assert self.votes is not None, "scores without votes"
        side = np.sign(self.votes[:, index].astype(np.float64) - 0.5)
        said = np.where(side == 0, np.nan, side)
        return {"accuracy": (1 + np.sign(self.margins) * said) / 2, "margin_nats": self.margins * said}

    @property
    def _side(self) -> Float[np.ndarray, " g"]:
        """1 where the first answer is said to be better, or the lone one desirable, -1 where it is not, 0 on a tie."""
        return np.sign(self.prefer.astype(np.float64) - 0.5)

    def metrics(self) -> Metrics:
        """`loss`, `accuracy` among pairs that are no tie, `margin_nats`: means by weight."""
        return {name: weighted_mean(values, self.weight) for name, values in self.columns().items()}

    def columns(self) -> dict[str, Float[np.ndarray, " g"]]:
        """What `metrics` are means of, NaN where a pair does not count. A pair's first answer is the better one; a lone
        answer's margin counts towards what is said of it."""
        towards = self.margins * self._side if self.lone else self.margins
        return {"loss": self.loss.astype(np.float64), "accuracy": self.right, "margin_nats": towards}


def weighted_mean(values: Float[np.ndarray, " g"], weight: Float[np.ndarray, " g"]) -> float:
    """Mean by weight of what is not NaN; 0 where nothing counts."""
    share = np.where(np.isnan(values), 0.0, weight)
    total = share.sum(dtype=np.float64)
    return float(np.nansum(values * share) / total) if total > 0 else 0.0


class PairScorer:
    """Scores whole sets of pairs, `batch_size` rows of a `plan` at a time; compiled once a row shape. A loss whose
    groups see one another sees those of `parts` such microbatches together: those of a step of the fit, and of a last
    one that has fewer.

    The anchor's log-probs are a table, whatever keeps the references of the fit: held-out pairs stay the same, so it is
    made once. It comes from the same program as the policy's: where the policy is the anchor, margins are exactly 0.
    Where groups have a stray beside what the loss reads (`data.strays`), tables have a column of it, and scores none.
    """

    def __init__(
        self,
        view: View[Any],
        mesh: jax.sharding.Mesh,
        batch_size: int,
        options: Options | None = None,
        plan: Callable[[TrainingGroups], Passes] = plan_rows,
        parts: int = 1,
    ):
        self._view, self._mesh, self._parts = view, mesh, parts
        self.batch_size, self._plan = full_rows(mesh, batch_size), plan
        self.program = scoring_by(view, mesh, options)

    def __call__(
        self,
        params: Params,
        frozen: Params,
        groups: TrainingGroups,
        anchor: Float[np.ndarray, "g r"] | None,
        last: Float[np.ndarray, "g r"] | None = None,
        *,
        between: Callable[[int], None] = lambda done: None,
        live: Mapping[str, Params] = MappingProxyType({}),
    ) -> PairScores:
        """Scores under the policy whose trained parameters are `params`. Without the table `anchor` losses are those
        against log-probs of 0; `last` is that of the policy that sampled, where one did. `live` are trained parameters
        of references, by role, for losses that read more of them than a table holds. `between` hears the pairs done
        after each batch, and may raise."""
        count, own = len(groups), groups.responses - strayed(self._view.loss, groups.responses)
        table = np.zeros((count, groups.responses), np.float32) if anchor is None else anchor
        loss, sums = np.zeros(count, np.float32), np.zeros((count, own), np.float32)
        prefer, weight = np.zeros(count, np.float32), np.zeros(count, np.float32)
        votes: Float[np.ndarray, "g o"] | None = None
        done = 0
        for numbers, *found in self.batches(params, frozen, groups, table, last, live=live):
            loss[numbers], sums[numbers], prefer[numbers], weight[numbers] = found[0], found[1][:, :own], *found[2:4]
            votes = np.zeros((count, found[4].shape[1]), np.float32) if votes is None else votes
            votes[numbers] = found[4]
            done += len(numbers)
            between(done)
        prompts, lengths = np.asarray(groups.prompts), np.asarray(groups.lengths)[:, :own]
        return PairScores(loss, sums, table[:, :own], prefer, weight, prompts, lengths, votes)

    def sums(
        self,
        params: Params,
        frozen: Params,
        groups: TrainingGroups,
        live: Mapping[str, Params],
        known: Bool[np.ndarray, " g"] | None = None,
    ) -> Iterator[tuple[Int[np.ndarray, " b"], Float[np.ndarray, "b r"]]]:
        """Numbers and log-probs alone, strays' too, one batch after another but those that are all `known`: of an
        anchor."""
        table = np.zeros((len(groups), groups.responses), np.float32)
        return (
            (numbers, sums)
            for numbers, _, sums, *_ in self.batches(params, frozen, groups, table, None, live=live, known=known)
        )

    def batches(
        self,
        params: Params,
        frozen: Params,
        groups: TrainingGroups,
        anchor: Float[np.ndarray, "g r"],
        last: Float[np.ndarray, "g r"] | None,
        *,
        live: Mapping[str, Params],
        known: Bool[np.ndarray, " g"] | None = None,
    ) -> Iterator[tuple[np.ndarray, ...]]:
        """Numbers, losses, sums, labels, weights, votes of pairs, one batch after another but those that are all
        `known`. A column of strays says how far they have moved from the anchor."""
        tables = {"anchor": anchor, "last": anchor if last is None else last}
        columns: Mapping[str, Float[np.ndarray, "g r"]] = {role: tables[role] for role in self._view.loss.needs}
        for rows, shape in self._plan(groups).batches(self._parts * self.batch_size, known):
            micros = rows.reshape(self._parts, -1, rows.shape[1])
            micros = np.where(rows_here(row_sharding(self._mesh), micros.shape[1])[:, None], micros, -1)
            batch = stack_microbatches([pack(groups, micro.reshape(-1), shape, columns) for micro in micros])
            found = self.program(params, frozen, dict(live), on_mesh(batch, row_sharding(self._mesh, leading=1)))
            real = rows.reshape(-1) >= 0
            yield rows.reshape(-1)[real], *(each[real] for each in jax.device_get(found))


@once
def scoring_by(view: View[Any], mesh: jax.sharding.Mesh, options: Options | None) -> Any:
    """`_scores`, jitted: a few bytes a group, which every process keeps."""
    return jax.jit(partial(_scores, view), out_shardings=replicated(mesh), compiler_options=options)


def _scores(
    view: View[Any], params: Params, frozen: Params, live: Mapping[str, Params], batches: Batch
) -> tuple[Array, ...]:
    policy, references = join(params, frozen), {role: join(each, frozen) for role, each in live.items()}
    seen = at_once(lambda batch: view(policy, references, batch), batches)
    ranks = view.ranks(seen)
    if isinstance(seen, GroupLogps) and seen.stray is not None:
        ranks = jnp.concatenate([ranks, seen.stray[:, None]], axis=1)
    labels = batches.labels
    votes = labels.votes.reshape(-1, labels.votes.shape[-1])
    return losses(view.loss, seen), ranks, labels.prefer.reshape(-1), batches.weight.reshape(-1), votes
