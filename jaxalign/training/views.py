"""What a loss sees of a batch: log-probs of a policy's responses, or outputs of a score model on their last tokens.

A view is a pure function (parameters, references, batch) → what the loss reads. The step, its gradients and its
metrics are the same for both.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.contracts.extras import extras_of
from jaxalign.contracts.group_size import LONE, misfit, strayed
from jaxalign.contracts.remembering import told
from jaxalign.contracts.scores import Compares, GroupScores, ScoreLoss, agreement
from jaxalign.errors import ConfigError
from jaxalign.models.heads import last_tokens, outputs
from jaxalign.models.model import Model
from jaxalign.training.logps import laid_out, logp_sums, of_groups, sight_of, token_logps, token_stats
from jaxalign.training.trust import KL, kl_of_last
from jaxalign.types import Batch, GroupLogps, Loss, Params, Rows

Seen = TypeVar("Seen", GroupLogps, GroupScores)


@runtime_checkable
class View(Protocol[Seen]):
    """What `loss` sees of `model`."""

    @property
    def model(self) -> Model: ...

    @property
    def loss(self) -> Any: ...

    def __call__(self, params: Params, references: Mapping[str, Params], batch: Batch) -> Seen: ...

    def varying(self, seen: Seen) -> Float[Array, "b r k"]:
        """What gradients flow through, of what is seen."""
        ...

    def at(self, seen: Seen, varying: Float[Array, "b r k"]) -> Seen:
        """The same with other values there."""
        ...

    def ranks(self, seen: Seen) -> Float[Array, "b r"]:
        """A number for each response: log-probs in nats, or what a score model makes of it."""
        ...

    def watch(self, seen: Seen, share: Float[Array, " b"]) -> dict[str, Array]:
        """Metrics under TRL's names: means over groups that have these shares of all."""
        ...


@dataclass(frozen=True)
class LogpView:
    """Log-probs of responses under the policy and the references that `loss` needs."""

    model: Model
    loss: Loss

    def __call__(self, params: Params, references: Mapping[str, Params], batch: Batch) -> GroupLogps:
        return group_logps(self.model, self.loss, params, references, batch)

    def varying(self, seen: GroupLogps) -> Float[Array, "b r t"]:
        return seen.tokens

    def at(self, seen: GroupLogps, varying: Float[Array, "b r t"]) -> GroupLogps:
        return dataclasses.replace(seen, tokens=varying)

    def ranks(self, seen: GroupLogps) -> Float[Array, "b r"]:
        return seen.sums

    def watch(self, seen: GroupLogps, share: Float[Array, " b"]) -> dict[str, Array]:
        """A reward is log π/π_reference in nats, against the anchor; what the loss remembers is told too, and the KL of
        a trust region."""
        more = {} if seen.memory is None else told(self.loss, seen)
        if seen.last_tokens is not None:
            more[KL] = (kl_of_last(seen) * share).sum()
        if seen.tokens.shape[1] == LONE:
            return _watched_alone(seen, share) | more
        mean = lambda values: (values * share).sum()  # noqa: E731
        sums, reference = seen.sums, seen.anchor if seen.anchor is not None else seen.last
        watched = {"logps/chosen": mean(sums[:, 0]), "logps/rejected": mean(sums[:, 1])}
        if reference is not None:
            rewards = sums - reference
            margins = rewards[:, 0] - rewards[:, 1]
            watched |= {
                "rewards/chosen": mean(rewards[:, 0]),
                "rewards/rejected": mean(rewards[:, 1]),
                "rewards/margins": mean(margins),
                "rewards/accuracies": mean(agreement(margins, seen.prefer)),
            }
        return watched | more


def _watched_alone(seen: GroupLogps, share: Float[Array, " b"]) -> dict[str, Array]:
    """Of lone answers: a margin is the reward of a desirable one, or of the other kind its contrary."""
    sums, reference = seen.sums[:, 0], seen.anchor if seen.anchor is not None else seen.last
    watched = {"logps/answers": (sums * share).sum()}
    if reference is not None:
        rewards = sums - reference[:, 0]
        margins = rewards * jnp.sign(seen.prefer - 0.5)
        watched |= {
            "rewards/answers": (rewards * share).sum(),
            "rewards/margins": (margins * share).sum(),
            "rewards/accuracies": (agreement(rewards, seen.prefer) * share).sum(),
        }
    return watched


@dataclass(frozen=True)
class ScoreView:
    """Outputs of a score model."""

    model: Model
    loss: ScoreLoss

    def __call__(self, params: Params, references: Mapping[str, Params], batch: Batch) -> GroupScores:
        return group_scores(self.model, params, batch)

    def varying(self, seen: GroupScores) -> Float[Array, "b r o"]:
        return seen.outputs

    def at(self, seen: GroupScores, varying: Float[Array, "b r o"]) -> GroupScores:
        return dataclasses.replace(seen, outputs=varying)

    def ranks(self, seen: GroupScores) -> Float[Array, "b r"]:
        return self.loss.ranks(seen.outputs)

    def watch(self, seen: GroupScores, share: Float[Array, " b"]) -> dict[str, Array]:
        """A margin is the log-odds of the label in nats: negative where the outputs say otherwise."""
        watched = {"rewards/accuracies": (self.loss.accuracies(seen) * share).sum()}
        if isinstance(self.loss, Compares):
            margins = self.loss.log_odds(seen.outputs) * jnp.sign(seen.prefer - 0.5)
            watched["rewards/margins"] = (margins * share).sum()
        return watched


def view_of(model: Model, loss: Loss | ScoreLoss, responses: int = 2) -> Any:
    """The view that `loss` reads of groups of so many responses. ConfigError, naming both, where they do not fit."""
    named, count = type(loss).__name__, len(model.config.outputs)
    if not isinstance(loss, ScoreLoss):
        if count:
            raise ConfigError(
                f"loss {named} reads log-probs, and {model.source} has a head of {count} outputs in place of the "
                "vocabulary's; train a language model, or take a loss of scores (BradleyTerry, GeneralPreference)"
            )
        if reason := misfit(loss, responses):
            raise ConfigError(f"loss {named} {reason}")
        return LogpView(model, loss)
    if not count:
        raise ConfigError(
            f"loss {named} reads outputs of a head, and {model.source} scores its vocabulary; put a head on it: "
            "model=Headed(base=…, outputs=…)"
        )
    for reason in loss.misfits(count, responses):
        raise ConfigError(f"loss {named} {reason} (model {model.source})")
    return ScoreView(model, loss)


def group_logps(
    model: Model,
    loss: Loss,
    params: Params,
    references: Mapping[str, Params],
    batch: Batch,
) -> GroupLogps:
    """What `loss` sees of `batch`; no gradient flows into the references."""

    extras = extras_of(loss)

    def reference(role: str) -> Float[Array, "b r"] | None:
        if role not in loss.needs:
            return None
        if role in references:
            with jax.named_scope(f"reference_{role}"):
                return jax.lax.stop_gradient(logp_sums(model, references[role], batch))
        return batch.references[role]

    anchor_tokens = None
    if "anchor_tokens" in extras:
        with jax.named_scope("reference_anchor"):
            of_anchor = token_logps(model, references["anchor"], batch.rows, batch.mask)
        anchor_tokens = jax.lax.stop_gradient(of_groups(batch, of_anchor))
    names = ("logp", "log_sum_p2") if "log_sum_p2" in extras else ("logp",)
    with jax.named_scope("policy"):
        stats = token_stats(model, params, batch.rows, batch.mask, names)
        tokens, *more = (of_groups(batch, each) for each in stats)
    seen = GroupLogps(
        tokens=tokens,
        mask=of_groups(batch, batch.mask),
        last=reference("last"),
        last_tokens=None if batch.last_tokens is None else of_groups(batch, batch.last_tokens),
        anchor=reference("anchor") if anchor_tokens is None else anchor_tokens.sum(-1),
        labels=batch.labels,
        log_sum_p2=more[0] if more else None,
        anchor_tokens=anchor_tokens,
        edited=batch.edited if "edited" in extras else None,
        weight=batch.weight if "batch" in extras else None,
    )
    return without_stray(seen) if strayed(loss, tokens.shape[1]) else seen


def without_stray(seen: GroupLogps) -> GroupLogps:
    """The last response of each group taken out, as what it is: an answer to another prompt."""
    assert seen.anchor is not None

    def own(column: Array | None) -> Array | None:
        return None if column is None else column[:, :-1]

    return dataclasses.replace(
        seen,
        tokens=seen.tokens[:, :-1],
        mask=seen.mask[:, :-1],
        last_tokens=own(seen.last_tokens),
        last=own(seen.last),
        anchor=seen.anchor[:, :-1],
        log_sum_p2=own(seen.log_sum_p2),
        anchor_tokens=own(seen.anchor_tokens),
        edited=own(seen.edited),
        stray=jax.lax.stop_gradient((seen.sums - seen.anchor)[:, -1]),
    )


def group_scores(model: Model, params: Params, batch: Batch) -> GroupScores:
    """What losses of scores see of `batch`."""
    with jax.named_scope("policy"):
        if batch.features is None:
            found = of_groups(batch, last_outputs(model, params, batch.rows, batch.mask.shape[1]))
        else:
            found = outputs(model.head(params), batch.features)
    return GroupScores(found, batch.labels)


def last_hidden(model: Model, params: Params, rows: Rows, responses: int) -> Float[Array, "b r d"]:
    """Final hidden state of the last token of each response of rows that hold so many; zeros where a row has none."""
    rows = laid_out(rows, model.layout)
    hidden = model.hidden(params, rows.tokens, rows.position, sight_of(rows))
    return last_tokens(hidden, jnp.where(rows.group >= 0, rows.branch - 1, -1), rows.position, responses)


def last_outputs(model: Model, params: Params, rows: Rows, responses: int) -> Float[Array, "b r o"]:
    """Outputs (fp32) of a score model for each response: what transformers says of the prompt and that response."""
    return outputs(model.head(params), last_hidden(model, params, rows, responses))
